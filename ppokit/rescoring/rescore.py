"""Score batches of samples by the rewards of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ppokit.config.components import SelectedComponent
from ppokit.config.evaluation_checks import component_check
from ppokit.distributed import Processes
from ppokit.errors import PluginError, Problem, RecipeError
from ppokit.messages import listed
from ppokit.plugin.protocols import BuildContext, CheckContext
from ppokit.plugin.scoring import RewardContext
from ppokit.rescoring.samples import Batch, Origin
from ppokit.rewards.event_loop import EventLoop
from ppokit.rewards.scorer import Scorer
from ppokit.run.component_builder import ComponentBuilder
from ppokit.run.components import RunComponent, close_components

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Rescored:
    """Samples with the whole rewards that they had and have, of tokens too; NaN where there is none.

    Attributes:
        groups: which samples are responses to the same prompt.
        by_reward: scores of each reward alone, before scaling and weight.
        failures: by reward, why each response failed that it could not score.
        left_out: rewards that need what saved samples do not hold.
    """

    ids: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    groups: list[tuple[int, int]] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    by_reward: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def rescore(
    batches: Iterable[Batch],
    rewards: Sequence[SelectedComponent],
    origin: Origin,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    disabled: Sequence[str] = (),
) -> Rescored:
    """Score samples; no language model is loaded.

    Args:
        origin: what rewards are told of the run.
        tokenizer: the policy's; None where nobody knows it.
        disabled: plugins that `use` does not mean.

    Raises:
        PpokitError: a reward failed, lacks what it reads, or none can be asked.
    """
    usable = [reward for reward in rewards if not reward.needs]
    left_out = {r.name: f"{r.name} (needs {listed(sorted(r.needs))})" for r in rewards if r.needs}
    if not usable:
        raise PluginError(
            f"nothing to score by: {listed(left_out.values())}, which saved samples do not hold; add a "
            "reward of the texts"
        )
    rescored = Rescored(left_out=list(left_out.values()))
    batches = iter(batches)
    first = next(batches, None)
    columns = dict.fromkeys(name for row in (first.rollout.rows if first else ()) for name in row)
    _check(usable, left_out, tuple(columns) if first else None, origin, has_tokenizer=tokenizer is not None)
    context = BuildContext(
        torch.device("cpu"),
        torch.float32,
        origin.seed,
        chat=origin.chat,
        tokenizer=tokenizer,
        steps=origin.steps,
    )
    loop = EventLoop()
    instances = [RunComponent("event loop", "the event loop of rewards", loop)]
    try:
        builder = ComponentBuilder(disabled, context, instances, is_main=True)
        built = [builder.build_reward(reward) for reward in usable]
        about = RewardContext(steps=origin.steps, seed=origin.seed, tokenizer=tokenizer)
        scorer = Scorer(built, _processes(), 1.0, context=about, loop=loop)
        for number, batch in enumerate(itertools.chain([first] if first else [], batches)):
            _add(rescored, number, batch, scorer)
    finally:
        close_components(instances)
    return rescored


def _check(
    rewards: Sequence[SelectedComponent],
    left_out: Mapping[str, str],
    columns: tuple[str, ...] | None,
    origin: Origin,
    *,
    has_tokenizer: bool,
) -> None:
    """Ask the rewards what they lack, as `ppokit validate` does, and look for what samples do not hold.

    Raises:
        RecipeError: with every problem.
    """
    prompt_column = "prompt" if origin.prompts is None else origin.prompts.column
    context = CheckContext(columns, chat=origin.chat, prompt_column=prompt_column)
    problems = []
    for reward in rewards:
        problems += [Problem(reward.key, sentence) for sentence in component_check(reward, context)]
        gate = reward.settings.gate
        if gate is not None and gate.reward in left_out:
            why = f"got {left_out[gate.reward]}, which saved samples do not hold; leave the gate out"
            problems.append(Problem(f"{reward.key}.gate.reward", why))
        if reward.settings.text == "answer" and not has_tokenizer:
            why = (
                "got answer, which needs the policy's tokenizer; expected a run with policy/ or a checkpoint"
            )
            problems.append(Problem(f"{reward.key}.text", why))
    if problems:
        raise RecipeError(problems, "rewards")


def _add(rescored: Rescored, number: int, batch: Batch, scorer: Scorer) -> None:
    rollout = batch.rollout
    rewards = scorer.score(rollout, step=batch.step)
    nan = torch.tensor(float("nan"))
    rescored.ids += rollout.ids
    rescored.responses += rollout.responses
    rescored.groups += [(number, group) for group in rollout.group_ids.tolist()]
    rescored.before += batch.before.tolist()
    rescored.after += rewards.token_rewards.sum(dim=1).where(rewards.scored, nan).tolist()
    for name, scores in rewards.breakdown.items():
        rescored.by_reward.setdefault(name, []).extend(scores.tolist())
    for name, outcomes in rewards.outcomes.items():
        reasons = rewards.reasons.get(name, ("",) * len(outcomes))
        failed = [r for r, outcome in zip(reasons, outcomes, strict=True) if outcome == "failed"]
        if failed:
            rescored.failures.setdefault(name, []).extend(failed)


def _processes() -> Processes:
    from accelerate import Accelerator

    return Processes(Accelerator(cpu=True))


def tokenizer_of(run: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a run's policy, of its newest checkpoint without one; None where neither is there."""
    for folder in (run / "policy", *sorted((run / "checkpoints").glob("step-*"), reverse=True)):
        if (folder / "tokenizer_config.json").is_file():
            from transformers import AutoTokenizer

            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
            return tokenizer
    return None
