"""One call of a component, and what comes back: checked as the core checks it, as numbers per response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ppokit.config.components import BuiltComponent
from ppokit.config.hooks import METHOD
from ppokit.errors import PluginError
from ppokit.plugin.generation import GenerationRequest, ResponseSeeds, SamplingParams
from ppokit.plugin.needs import only_needed
from ppokit.plugin.protocols import AdvantageWeighting
from ppokit.plugin.types import LossOutput, Rollout
from ppokit.testing.checks import Fault
from ppokit.testing.fakes import FakeView, fake_policy, prompt_batch
from ppokit.testing.reward_calls import raw_score, run
from ppokit.testing.reward_calls import rewards as scored_by
from ppokit.testing.samples import TEXTS, loss_inputs, rewards_of, rollout_of
from ppokit.testing.subject import Subject

Numbers = list[list[float]]
"""Per response: all that a component said of it."""

RUN_FOLDER = "ppokit-conformance"
"""Of the run that components hear of, among temporary files; nobody makes it."""

_OUTCOMES = ("scored", "abstained", "failed")
_STEPS = 3


def sample(
    subject: Subject, texts: Sequence[str] = TEXTS["ragged"], *, group: int = 2, width: int | None = None
) -> Rollout:
    """A rollout of these responses with what the component needs; see `rollout_of`."""
    return rollout_of(texts, row=subject.row, group=group, needs=subject.component.needs, width=width)


def arguments(subject: Subject, rollout: Rollout) -> tuple[Any, ...]:
    """What the component's method is called with."""
    if subject.kind == "rewards":
        return (rollout,)
    if subject.kind == "advantages":
        return rollout, rewards_of(rollout)
    if subject.kind == "losses":
        return (loss_inputs(rollout, subject.component.needs),)
    if subject.kind == "rollout":
        return fake_policy(), request(rollout)
    return FakeView(subject.component.needs, subject.row), 1


def request(rollout: Rollout, *, seed: int = 0, greedy: bool = False) -> GenerationRequest:
    """Its responses as prompts to be answered twice."""
    prompts = prompt_batch([f"Q: {text[:80]}" for text in rollout.responses], rollout.rows[0])
    n = 1 if greedy else 2
    seeds = None if greedy else ResponseSeeds(seed, 1, len(prompts), range(len(prompts)), n)
    return GenerationRequest(prompts, n, seeds, SamplingParams(max_new_tokens=8), policy_logprobs=True)


def raw(subject: Subject, built: BuiltComponent, given: tuple[Any, ...]) -> Any:
    """What the method returns, unchecked."""
    if subject.kind == "observers":
        raise AssertionError("an observer has events")
    if subject.kind == "rewards":
        return raw_score(built, given[0])
    name = str(METHOD[subject.kind])
    if isinstance(built.instance, AdvantageWeighting):
        name = "advantage_weights"
    return getattr(built.instance, name)(*given)


def exercise(subject: Subject) -> BuiltComponent:
    """Build, call once, hear of a step, close: as a short run does; what was built."""
    built = subject.build()
    rollout = sample(subject)
    if subject.kind != "observers":
        raw(subject, built, arguments(subject, rollout))
    tell(subject, built, rollout)
    close(built)
    return built


def tell(subject: Subject, built: BuiltComponent, rollout: Rollout, *, steps: int = 1) -> None:
    """Let the object hear of a run of so many steps."""
    from ppokit.run.components import RunComponent
    from ppokit.run.events import EventHooks

    events = EventHooks([RunComponent(subject.name, subject.where, built.instance)])
    for name, values in history(rollout, steps):
        events.emit(name, **values)


def history(rollout: Rollout, steps: int) -> list[tuple[str, dict[str, Any]]]:
    """The events of a run, in order."""
    from pathlib import Path
    from tempfile import gettempdir

    from ppokit.plugin.evaluating import Recorded
    from ppokit.plugin.types import Advantages

    rewards = rewards_of(rollout)
    folder = Path(gettempdir()) / RUN_FOLDER
    metrics = {"step": 1.0, "reward/mean": 0.5, "kl/reference": 0.1, "loss/ppo_clip": -0.1}
    start = {"step": 0, "steps": steps, "folder": folder, "recipe": {"run": {"steps": steps}}}
    events: list[tuple[str, dict[str, Any]]] = [("on_run_start", start)]
    recorded = [
        Recorded("rewards", rollout, {"score": rewards.scores.tolist()}, rewards),
        Recorded("canary", rollout, {}, rewards),
    ]
    for step in range(1, steps + 1):
        whole = {
            "rollout": rollout,
            "rewards": rewards,
            "advantages": Advantages(rewards.token_rewards),
            "metrics": metrics,
        }
        events.append(("on_phase", {"step": step, "phase": "sampling"}))
        events.append(("on_step", {"step": step, **whole}))
        measured = {"metrics": {"eval/rewards/mean": 0.5}, "records": recorded}
        events.append(("on_evaluation", {"step": step, **measured}))
        events.append(("on_warning", {"step": step, "text": "the reward is the same everywhere"}))
        events.append(("on_checkpoint", {"step": step, "folder": folder}))
    return [*events, ("on_run_end", {"step": steps, "error": None})]


def close(built: BuiltComponent) -> None:
    """Close the object, where it can be."""
    if callable(method := getattr(built.instance, "close", None)):
        run(method())


def call(subject: Subject, built: BuiltComponent, rollout: Rollout) -> Numbers:
    """Call the component as the core does, and hold what it returns to the contract.

    Raises:
        PpokitError: it breaks its contract.
    """
    if subject.kind == "rewards":
        return _score(built, rollout)
    if subject.kind == "advantages":
        return _estimate(subject, built, rollout)
    if subject.kind == "losses":
        return _losses(subject, built, rollout)
    if subject.kind == "rollout":
        return generate(subject, built, request(rollout))
    if subject.kind == "evaluators":
        return _evaluate(subject, built)
    tell(subject, built, rollout, steps=_STEPS)
    return []


def fresh(subject: Subject, rollout: Rollout) -> Numbers:
    """The same of an object that was just built."""
    built = subject.build()
    try:
        return call(subject, built, rollout)
    finally:
        close(built)


def _score(built: BuiltComponent, rollout: Rollout) -> Numbers:
    rewards = scored_by(built, rollout)
    (outcomes,) = rewards.outcomes.values()
    (scores,) = rewards.breakdown.values()
    return [
        [
            float(_OUTCOMES.index(outcomes[i])),
            0.0 if math.isnan(float(scores[i])) else float(scores[i]),
            *rewards.token_rewards[i][rollout.loss_mask[i]].tolist(),
        ]
        for i in range(len(rollout))
    ]


def _estimate(subject: Subject, built: BuiltComponent, rollout: Rollout) -> Numbers:
    from ppokit.training.advantages import estimate

    result = estimate(built, rollout, rewards_of(rollout))
    numbers = []
    for index, mask in enumerate(rollout.loss_mask):
        row = result.advantages[index][mask].tolist()
        if result.returns is not None:
            row += result.returns[index][mask].tolist()
        numbers.append(row)
    return numbers


def _losses(subject: Subject, built: BuiltComponent, rollout: Rollout) -> Numbers:
    return loss_numbers(subject, built, loss_inputs(rollout, subject.component.needs))


def loss_numbers(subject: Subject, built: BuiltComponent, inputs: Any) -> Numbers:
    """The losses of a micro-batch's tokens, and their gradients.

    Raises:
        PpokitError: what was returned breaks the contract.
    """
    import torch

    from ppokit.training.aggregation import MetricAccumulator
    from ppokit.training.losses import LossGroup

    mask = inputs.mask
    group = LossGroup((built,), policy=True, value=True, needs=subject.component.needs)
    accumulator = MetricAccumulator()
    group.loss(inputs, mask.float(), accumulator)
    failure = accumulator.readings.read()
    if failure is not None:
        raise PluginError(f"{failure.what}; expected finite numbers on every token of the mask")
    output = raw(subject, built, (only_needed(inputs, subject.component.needs),))
    tokens = output.token_losses if isinstance(output, LossOutput) else output.weights
    leaves = [t for t in (inputs.new_logprobs, inputs.values, inputs.entropy) if t is not None]
    gradients = []
    if isinstance(output, LossOutput) and tokens.requires_grad:
        derivatives = torch.autograd.grad(
            tokens.where(mask, torch.zeros(())).sum(), leaves, allow_unused=True, retain_graph=True
        )
        gradients = [gradient for gradient in derivatives if gradient is not None]
    return [
        [number for tensor in (tokens.detach(), *gradients) for number in tensor[i][mask[i]].float().tolist()]
        for i in range(len(mask))
    ]


def generate(subject: Subject, built: BuiltComponent, asked: GenerationRequest) -> Numbers:
    """What an engine answers, two responses to each prompt.

    Raises:
        PpokitError: it breaks the contract.
    """
    from ppokit.errors import plugin_call
    from ppokit.rollout.check_generation import check_generation

    policy = fake_policy()
    ids = [f"sample-{i}" for i in range(len(asked))]
    with plugin_call(subject.where, "generate"):
        answer = built.instance.generate(policy, asked)
        check_generation(answer, asked, policy, ids)
    return [
        [
            *map(float, answer.response_ids[i]),
            *(0.0 if math.isnan(number) else number for number in answer.sampler_logprobs[i]),
        ]
        for i in range(len(asked))
    ]


def _evaluate(subject: Subject, built: BuiltComponent) -> Numbers:
    from ppokit.errors import plugin_call
    from ppokit.training.contracts import component_metrics

    numbers = []
    for step in (0, 1):
        view = FakeView(subject.component.needs, subject.row)
        with plugin_call(subject.where, "evaluate"):
            returned = built.instance.evaluate(view, step)
        checked = component_metrics(returned, subject.where, responses=len(view.prompts), prefix="eval/kit/")
        numbers.append([number.value for _, number in sorted(checked.items())])
    return numbers


def need_equal(first: Numbers, second: Numbers, what: str) -> None:
    """That two calls said the same, but for rounding.

    Raises:
        Fault: they did not; `what` says of which calls, and what to do.
    """
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        close_enough = len(one) == len(other) and all(
            math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5) for a, b in zip(one, other, strict=True)
        )
        if not close_enough:
            pairs = list(zip(one, other, strict=False))
            shown = next(
                ((a, b) for a, b in pairs if not math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5)), None
            )
            numbers = f"{shown[0]:g} and {shown[1]:g}" if shown else f"{len(one)} and {len(other)} numbers"
            raise Fault(f"item {index} is {numbers} {what}")
