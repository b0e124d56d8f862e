"""The policy and the recipe's rewards as evaluators see them: they answer, and nothing is learned from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ppokit.data.prompt_rows import first_prompts, read_prompts
from ppokit.plugin.chats import ROLES, ChatPrompt
from ppokit.plugin.evaluating import Recorded
from ppokit.plugin.needs import only_needed
from ppokit.plugin.types import Rewards, Rollout, Row
from ppokit.rewards.outcomes import FailedRewardsError
from ppokit.run.evaluation_table import is_column
from ppokit.seeds import seed_from

if TYPE_CHECKING:
    from torch import Tensor

    from ppokit.build import TrainerComponents
    from ppokit.config.prompt_settings import HeldOutPromptSettings
    from ppokit.plugin.evaluating import LogitReader
    from ppokit.plugin.protocols import Need
    from ppokit.rewards.scorer import Scorer
    from ppokit.rollout.collect import Collector
    from ppokit.rollout.policy import PolicyView

_ROLE = rf"({'|'.join(ROLES)}): ".title()
_LIKE_CHAT = re.compile(rf"{_ROLE}.*\n\n{_ROLE}", re.DOTALL)
_EVALUATION = 1 << 40  # beyond every step, so that no training step draws by the same numbers


@dataclass(frozen=True)
class HeldOutPrompts:
    """Prompts on which nothing trains.

    Attributes:
        texts: the prompts.
        rows: all columns of each.
        numbers: of their rows in the file.
    """

    texts: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    numbers: Sequence[int] = ()


def read_held_out(settings: HeldOutPromptSettings | None, *, chat: bool) -> HeldOutPrompts:
    """The recipe's held-out prompts; none where it has no such section.

    Args:
        chat: whether prompts may be chats.

    Raises:
        DataError: they cannot be read.
    """
    if settings is None:
        return HeldOutPrompts()
    table = read_prompts(settings, chat=chat, key="evaluation.prompts")
    return HeldOutPrompts(*first_prompts(table, settings))


@dataclass
class HeldOutView:
    """An `EvaluationView`, of one evaluation.

    Attributes:
        policy: the policy of now.
        collector: computes what is needed of responses.
        scorer: the recipe's rewards.
        needs: what the evaluators need of every rollout.
        seen: those of them that the evaluator that asks sees.
        reward_needs: what the rewards need of one that is scored.
        known: the prompts of the run and the held-out ones: a chat is found by its text.
        warnings: what evaluators found worth a person's attention.
        evaluator: the name of the one that asks.
        records: what evaluators recorded.
        scored: what they had scored.
        has_reference: whether the reference can be asked.
        answered: responses to the held-out prompts, by how many per prompt; None for a greedy one.
    """

    policy: PolicyView
    collector: Collector
    scorer: Scorer
    prompts: Sequence[str]
    rows: Sequence[Row]
    training_rows: Sequence[Row]
    prompt_column: str
    is_main: bool
    seed: int
    needs: frozenset[Need]
    reward_needs: frozenset[Need]
    seen: frozenset[Need] = frozenset()
    known: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    evaluator: str = ""
    records: list[Recorded] = field(default_factory=list)
    scored: list[Recorded] = field(default_factory=list)
    has_reference: bool = False
    answered: dict[int | None, Rollout] = field(default_factory=dict)

    @property
    def scales_move(self) -> bool:
        return any(scaling.scales for _, scaling in self.scorer.rewards)

    def generate(
        self, prompts: Sequence[str] | None = None, *, n: int | None = None, rows: Sequence[Row] | None = None
    ) -> Rollout:
        if prompts is not None:
            return only_needed(self._generated(prompts, n, rows), self.seen)
        if rows is not None:
            raise ValueError("generate: got rows without prompts; held-out prompts have their own")
        if n not in self.answered:  # several evaluators ask the same
            self.answered[n] = self._generated(self.prompts, n, self.rows)
        return only_needed(self.answered[n], self.seen)

    def _generated(self, prompts: Sequence[str], n: int | None, rows: Sequence[Row] | None) -> Rollout:
        prompts = self._chats(prompts)
        rollout = self.policy.generate(prompts, n=n, seed=seed_from(self.seed, _EVALUATION), rows=rows)
        return self.collector.computed(rollout, self.needs)

    def recorded(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        separator: str = "",
        rows: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rollout:
        rollout = self.policy.recorded(self._chats(prompts), responses, separator=separator, rows=rows)
        return only_needed(self.collector.computed(rollout, self.needs), self.seen)

    def _chats(self, prompts: Sequence[str]) -> list[str]:
        """The prompts, those that are texts of known chats as these; a warning counts what is none."""
        read = [self.known.get(prompt, prompt) for prompt in prompts]
        texts = [prompt for prompt in read if not isinstance(prompt, ChatPrompt) and _LIKE_CHAT.match(prompt)]
        if texts and self.policy.prompts.chat:
            self.warn(
                f"{len(texts)} prompts look like chats and are none of the run's, so that each was read as "
                f"one message of the user: the first begins {texts[0][:40]!r}"
            )
        return read

    def logprobs(self, rollout: Rollout) -> Tensor:
        if rollout.old_logprobs is not None:
            return rollout.old_logprobs
        return self.policy.logprobs(rollout)

    def read_logits(self, rollout: Rollout, read: LogitReader) -> Tensor:
        return self.collector.read_logits(rollout, read)

    def score(self, rollout: Rollout) -> Rewards:
        try:
            rewards = self.scorer.score(self.collector.computed(rollout, self.reward_needs), learn=False)
        except FailedRewardsError as error:
            self.scored.append(Recorded(self.evaluator, error.rollout, {}, error.rewards))
            raise
        self.scored.append(Recorded(self.evaluator, rollout, {}, rewards))
        return rewards

    def record(self, rollout: Rollout, values: Mapping[str, Sequence[float | None]]) -> None:
        checked = {name: list(numbers) for name, numbers in values.items()}
        before = {name for own in self.records if own.evaluator == self.evaluator for name in own.values}
        if twice := sorted(before & checked.keys()):
            raise ValueError(f"record: {twice[0]!r} was recorded before; expected each name once")
        if taken := [name for name in checked if is_column(name)]:
            raise ValueError(f"record: {taken[0]!r} is a column of the core's; expected another name")
        for name, numbers in checked.items():
            if len(numbers) != len(rollout):
                raise ValueError(
                    f"record: {name!r} has {len(numbers)} numbers; expected one per response, {len(rollout)}"
                )
            if wrong := [x for x in numbers if x is not None and not math.isfinite(x)]:
                raise ValueError(f"record: {name!r} has {wrong[0]}; expected finite numbers, or None")
        self.records.append(Recorded(self.evaluator, rollout, checked))

    def kept(self) -> list[Recorded]:
        """What evaluators recorded, with the rewards of those responses; then what was scored alone."""
        alone = {_which(own): own for own in self.scored}
        recorded = [replace(own, rewards=alone.pop(_which(own), own).rewards) for own in self.records]
        return [*recorded, *alone.values()]

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _which(own: Recorded) -> tuple[str, int]:
    """Whose responses they are: ids are the same in each of an evaluator's rollouts."""
    return own.evaluator, id(own.rollout.response_ids)


def held_out_view(components: TrainerComponents, collector: Collector, step: int) -> HeldOutView:
    """The view of the policy after `step` steps.

    Args:
        components: of the trainer, with an evaluation.
        collector: of the trainer.
    """
    assert components.evaluation is not None
    settings = collector.settings
    unannounced = replace(collector, phase=lambda name: nullcontext())  # an evaluation is one phase
    return HeldOutView(
        policy=unannounced.view(step + 1),
        collector=unannounced,
        scorer=components.scorer,
        prompts=components.evaluation.held_out.texts,
        rows=components.evaluation.held_out.rows,
        training_rows=components.prompts.rows,
        prompt_column=settings.prompts.column,
        is_main=components.processes.is_main,
        seed=settings.run.seed,
        needs=components.evaluation.needs,
        reward_needs=components.reward_needs,
        has_reference=components.roles.has_reference,
        known={
            text: text
            for text in (*components.prompts.texts, *components.evaluation.held_out.texts)
            if isinstance(text, ChatPrompt)
        },
    )
