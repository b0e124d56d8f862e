"""Ask a reward provider for one outcome per response, and hold it to its contract and its error budget.

Nothing becomes a silent zero: a response is scored, abstained or failed, and a step in which more than the
allowed share failed stops the run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar, cast, get_args

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.distributed import Processes
from ppokit.errors import PluginError, PpokitError, RewardError, in_one_paragraph, plugin_call
from ppokit.plugin.needs import only_needed
from ppokit.plugin.reductions import Reduction, merge
from ppokit.plugin.types import Outcome, RewardOutput, Rollout
from ppokit.training.contracts import check_tensor, component_metrics
from ppokit.training.metrics import UNSCORED

T = TypeVar("T")


def ask(reward: BuiltComponent, rollout: Rollout, processes: Processes, max_failed: float) -> RewardOutput:
    """A reward's output for the whole rollout: each process asks for its share, every one gets all.

    Args:
        max_failed: the largest share of the responses that may fail.

    Returns: float32 on the CPU, 0 where a response was not scored and on padding.

    Raises:
        RewardError: more outcomes failed than `max_failed` allows.
        PluginError: the provider broke its contract, on any process.
    """
    count = len(rollout)
    own = processes.share(count)
    if reward.runs_on == "main":
        own = range(count if processes.is_main else 0)
    share = rollout.select(own)
    output: RewardOutput | None = None
    failure = ""
    with processes.together():
        if len(share):
            # A view of its own: what a provider does to it changes nothing for others or for later steps.
            answer, failure = attempt(reward.where, lambda: reward.instance.score(_view(reward, share)))
            output = None if failure else _checked(answer, share, reward)
    if output is None:
        output = RewardOutput.of_scores(torch.zeros(len(share)), "failed")
    records = processes.gather([(failure, output)])
    merged = _merge([output for _, output in records if output.outcomes] or [output])
    failed = merged.outcomes.count("failed")
    if failed / max(1, count) > max_failed:  # not by a product: 0.29 * 100 is below 29
        first = next((failure for failure, _ in records if failure), "it reported them as failed")
        raise RewardError(
            f"{reward.where} failed for {failed} of {count} responses, more than "
            f"run.max_failed_rewards allows ({max_failed:g} of them). First cause: {first}"
        )
    return merged


def attempt(where: str, call: Callable[[], T]) -> tuple[T | None, str]:
    """What a provider's call returned, or why it failed; one of the two.

    Raises:
        PluginError: the provider said itself that its contract is broken.
    """
    try:
        with plugin_call(where, "score"):
            return call(), ""
    except PpokitError as error:
        cause = error.__cause__ or error
        if isinstance(cause, PluginError):
            raise
        return None, str(cause) if isinstance(cause, PpokitError) else in_one_paragraph(cause)


def _checked(output: object, rollout: Rollout, reward: BuiltComponent) -> RewardOutput:
    """What a provider returned of a rollout, as float32 on the CPU, without gradient; 0 where not scored.

    Raises:
        PluginError: it is not what the contract says.
    """
    b, r = rollout.response_ids.shape

    def broken(actual: str, expected: str) -> PluginError:
        return PluginError(f"{reward.where} returned {actual}; expected {expected}.")

    def numbers(name: str, given: object, shape: list[int], axes: str) -> Tensor:
        tensor = check_tensor(reward.where, name, given, shape, axes)
        if tensor.is_complex() or tensor.is_meta or tensor.layout != torch.strided:
            raise broken(f"{name} of {tensor.dtype} on {tensor.device}", "real numbers in a dense tensor")
        return tensor.detach().to("cpu", torch.float32)

    if inspect.iscoroutine(output):
        output.close()
        raise broken("a coroutine", "a RewardOutput: score is called as a plain function")
    if not isinstance(output, RewardOutput):
        raise broken(f"a {type(output).__name__}", "a RewardOutput")
    scores = numbers("scores", output.scores, [b], "responses")
    outcomes = output.outcomes
    if isinstance(outcomes, str) or not isinstance(outcomes, Sequence) or len(outcomes) != b:
        actual = (
            f"{len(outcomes)} outcomes"
            if isinstance(outcomes, list | tuple)
            else f"outcomes {outcomes!r:.60}"
        )
        raise broken(actual, f"{b} (responses)")
    for outcome in outcomes:
        if outcome not in get_args(Outcome):
            raise broken(f"the outcome {outcome!r}", "scored, abstained or failed")
    scored = torch.tensor([outcome == "scored" for outcome in outcomes])
    scores = scores.where(scored, torch.zeros(()))
    whole, tokens = scores, output.token_scores
    if tokens is not None:
        tokens = numbers("token_scores", tokens, [b, r], "responses, response tokens")
        tokens = tokens.where(rollout.loss_mask & scored[:, None], torch.zeros(()))
        whole = scores + tokens.sum(dim=1)
    for index in (~whole.isfinite()).nonzero().flatten().tolist():
        response = rollout.responses[index][:60]
        raise broken(
            f"{whole[index].item()} for sample {rollout.ids[index]} (response {response!r})",
            "a finite number, or the outcome abstained or failed",
        )
    prefix = f"reward/{reward.name}/"
    taken = [prefix + outcome for outcome in UNSCORED]
    metrics = component_metrics(output.metrics, reward.where, responses=b, prefix=prefix, taken=taken)
    return RewardOutput(scores, tuple(outcomes), tokens, metrics)


def _view(reward: BuiltComponent, share: Rollout) -> Rollout:
    """A share of a rollout as a provider sees it: a copy, rows included, of what it needs."""
    seen = only_needed(share, reward.needs)
    copied = seen.select(range(len(seen)))
    greedy = None if seen.greedy is None else seen.greedy.select(range(len(seen.greedy)))
    return replace(copied, rows=[deepcopy(row) for row in seen.rows], greedy=greedy)


def _merge(outputs: Sequence[RewardOutput]) -> RewardOutput:
    """Outputs of several processes as one; metrics by their reduction."""
    width = next((o.token_scores.shape[1] for o in outputs if o.token_scores is not None), None)
    tokens = [
        torch.zeros(len(o.outcomes), width or 0) if o.token_scores is None else o.token_scores
        for o in outputs
    ]
    return RewardOutput(
        scores=torch.cat([o.scores for o in outputs]),
        outcomes=tuple(outcome for o in outputs for outcome in o.outcomes),
        token_scores=None if width is None else torch.cat(tokens),
        metrics=merge(cast(Mapping[str, Reduction], o.metrics) for o in outputs),
    )
