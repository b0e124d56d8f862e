"""Score batches of samples by the rewards of a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ppokit.config.components import SelectedComponent
from ppokit.distributed import Processes
from ppokit.errors import DataError, PluginError
from ppokit.messages import listed
from ppokit.plugin.protocols import BuildContext
from ppokit.plugin.scoring import RewardContext
from ppokit.rescoring.samples import Batch, Origin
from ppokit.rewards.event_loop import EventLoop
from ppokit.rewards.scorer import Scorer
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
    rewards: Iterable[SelectedComponent],
    origin: Origin,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Rescored:
    """Score samples; no language model is loaded.

    Args:
        origin: what rewards are told of the run.
        tokenizer: the policy's, for rewards of `text: answer`.

    Raises:
        PpokitError: a reward failed, or none can be asked.
    """
    rescored = Rescored()
    usable = []
    for reward in rewards:
        if reward.needs:
            rescored.left_out.append(f"{reward.name} (needs {listed(sorted(reward.needs))})")
        elif reward.settings.text == "answer" and tokenizer is None:
            raise DataError(
                f"{reward.where}: text: answer needs a run's tokenizer; give the run in place of texts"
            )
        else:
            usable.append(reward)
    if not usable:
        raise PluginError(
            f"nothing to score by: {listed(rescored.left_out)}, which saved samples do not hold; add a "
            "reward of "
            "the texts"
        )
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
        built = []
        for reward in usable:
            built.append(reward.build(context))
            instances.append(RunComponent(reward.key, reward.where, built[-1].instance))
        about = RewardContext(steps=origin.steps, seed=origin.seed, tokenizer=tokenizer)
        scorer = Scorer(built, _processes(), 1.0, context=about, loop=loop)
        for number, batch in enumerate(batches):
            _add(rescored, number, batch, scorer)
    finally:
        close_components(instances)
    return rescored


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


def tokenizer_of(run: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a run's policy: that of its saved policy, or of its newest checkpoint.

    Raises:
        DataError: neither is there.
    """
    from transformers import AutoTokenizer

    for folder in (run / "policy", *sorted((run / "checkpoints").glob("step-*"), reverse=True)):
        if (folder / "tokenizer_config.json").is_file():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
            return tokenizer
    raise DataError(f"{run} has no tokenizer; text: answer needs that of its policy, which policy/ holds")
