"""Score: ask every reward provider of a recipe, and add up what they give.

token_rewards = sum over providers of weight * (token scores, and the sequence score on the last real token)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.distributed import Processes
from ppokit.errors import RewardError
from ppokit.plugin.reductions import Mean, Metric
from ppokit.plugin.reward_output import Outcome, RewardOutput
from ppokit.plugin.scoring import RewardContext
from ppokit.plugin.types import Rewards, Rollout
from ppokit.rewards.event_loop import EventLoop
from ppokit.rewards.outcomes import FailedRewardsError, impute, over_budget
from ppokit.rewards.providers import Asked, Providers
from ppokit.rewards.scaling import Scaling

T = TypeVar("T")


class Scorer:
    """Scores rollouts with every provider of a recipe.

    Args:
        max_failed: the largest share of a rollout's responses for which a provider may fail.
        max_hung: calls that may go on in threads after their time-out.
        context: what providers may ask for of the run.
        loop: where calls run that are not on the main thread; one of its own, unless given.

    Raises:
        PluginError: a reward has built what cannot score.
    """

    def __init__(
        self,
        rewards: Sequence[BuiltComponent],
        processes: Processes,
        max_failed: float,
        *,
        max_hung: int = 8,
        context: RewardContext | None = None,
        loop: EventLoop | None = None,
    ) -> None:
        self.rewards = [(reward, Scaling(reward.settings.scale, reward.settings.clip)) for reward in rewards]
        self.processes = processes
        self.max_failed = max_failed
        self._owns_loop = loop is None
        loop = loop or EventLoop()
        self.providers = Providers(rewards, processes, context or RewardContext(), loop, max_hung=max_hung)
        self._worked: set[str] = set()  # rewards that gave anything but failures
        self._begun: list[tuple[Rollout, Asked]] = []  # which no score has taken up yet

    def begin(self, rollout: Rollout, *, step: int) -> None:
        """Ask the providers that run beside the main thread and need nothing that the rollout lacks.

        `score` of the same rollout takes their answers up; what has begun of another one is given up.
        """
        givens = [given for given in (rollout, rollout.greedy) if given is not None]
        begun = [(given, self._asked(given, step)) for given in givens]
        for _, asked in self._begun:
            asked.cancel()
        self._begun = begun
        for _, asked in begun:
            self.providers.begin(asked)

    def wait(self) -> None:
        """Wait for those of the providers that may not overlap with the next rollout.

        Raises:
            PluginError: a provider broke its contract.
        """
        for _, asked in self._begun:
            self.providers.wait(asked)

    def _asked(self, rollout: Rollout, step: int) -> Asked:
        """The calls for a rollout: those that have begun, or none yet.

        What failed to be answered is shown to no provider.
        """
        answered = (~rollout.failed).nonzero().flatten().tolist()
        part = rollout if len(answered) == len(rollout) else rollout.select(answered)
        for index, (known, asked) in enumerate(self._begun):
            if asked.context.step == step and _is_same(known, rollout):
                del self._begun[index]
                asked.rollout = part
                return asked
        return Asked(part, replace(self.providers.context, step=step))

    def score(self, rollout: Rollout, *, learn: bool = True, step: int = 0) -> Rewards:
        """Rewards of a rollout; each process scores its share, every one gets all of them.

        Where the rollout has greedy responses, their whole rewards come along, scaled as the others are.

        Args:
            learn: whether scores are taken into what later ones are scaled by; not for an evaluation.
            step: the step that is scored, for providers.

        Raises:
            FailedRewardsError: more outcomes failed than the error budget allows.
            RewardError: too many calls hang.
            PluginError: a provider broke its contract (wrong shape, NaN).
        """
        rewards = self._rewards(rollout, learn=learn, step=step)
        if rollout.greedy is None:
            return rewards
        greedy = self._rewards(rollout.greedy, learn=False, step=step)
        totals = greedy.token_rewards.sum(dim=1).tolist()
        by_group = dict(zip(rollout.greedy.group_ids.tolist(), totals, strict=True))
        scored_groups = set(rollout.greedy.group_ids[greedy.scored].tolist())
        groups = rollout.group_ids.tolist()
        both_scored = rewards.scored & torch.tensor([group in scored_groups for group in groups])
        mean = float(greedy.scores[greedy.scored].mean()) if scored_groups else 0.0
        return replace(
            rewards,
            greedy_returns=torch.tensor([by_group[group] for group in groups]),
            scored=both_scored,
            trained=both_scored,
            metrics={**rewards.metrics, "reward/greedy_mean": Mean(mean, len(scored_groups))},
        )

    def _rewards(self, rollout: Rollout, *, learn: bool, step: int) -> Rewards:
        """What failed to be answered has no reward.

        Raises:
            FailedRewardsError: more failed than the error budget allows.
        """
        part = self._rewards_of_answers(self._asked(rollout, step), learn=learn)
        rewards = part if len(part.scored) == len(rollout) else self._of_all(part, rollout)
        for reward, _ in self.rewards:
            worked = reward.key in self._worked
            if message := over_budget(reward, part, self.max_failed, worked=worked):
                raise FailedRewardsError(message, rollout, rewards)
            if set(part.outcomes[reward.name]) - {"failed"}:
                self._worked.add(reward.key)
        return rewards

    def _of_all(self, part: Rewards, rollout: Rollout) -> Rewards:
        """Rewards of the responses that were answered, among those that were not."""
        answered = (~rollout.failed).nonzero().flatten().tolist()

        def scatter(numbers: Tensor, fill: float) -> Tensor:
            whole = torch.full((len(rollout), *numbers.shape[1:]), fill, dtype=numbers.dtype)
            whole[answered] = numbers
            return whole

        def spread_out(known: Mapping[str, tuple[T, ...]], fill: T) -> dict[str, tuple[T, ...]]:
            every = {name: dict(zip(answered, values, strict=True)) for name, values in known.items()}
            return {
                name: tuple(by_index.get(index, fill) for index in range(len(rollout)))
                for name, by_index in every.items()
            }

        has_reward = scatter(part.scored, False)
        return Rewards(
            token_rewards=scatter(part.token_rewards, 0.0),
            scores=scatter(part.scores, 0.0),
            breakdown={name: scatter(numbers, float("nan")) for name, numbers in part.breakdown.items()},
            outcomes=spread_out(part.outcomes, "abstained"),
            scored=has_reward,
            trained=has_reward,
            metrics=part.metrics,
            reasons=spread_out(part.reasons, ""),
            seconds={name: scatter(own, float("nan")) for name, own in part.seconds.items()},
            parts={name: scatter(numbers, float("nan")) for name, numbers in part.parts.items()},
            notes=spread_out(part.notes, ""),
        )

    def _rewards_of_answers(self, asked: Asked, *, learn: bool) -> Rewards:
        rollout = asked.rollout
        token_rewards = torch.zeros(rollout.response_ids.shape)
        scores = torch.zeros(len(rollout))
        # Who was judged: by token scores alone, such as a KL penalty, or by a score of the whole response.
        judged = torch.zeros(2, len(rollout), dtype=torch.bool)
        some_failed = torch.zeros(len(rollout), dtype=torch.bool)
        outputs, seconds = self.providers.finish(asked)
        metrics: dict[str, Metric] = {}
        breakdown: dict[str, Tensor] = {}
        some_weight = any(reward.settings.weight for reward, _ in self.rewards)
        some_sequence = False
        for (reward, scaling), output in zip(self.rewards, outputs, strict=True):
            weight = reward.settings.weight
            scored = _have(output, "scored")
            failed = _have(output, "failed")
            tokens = output.token_scores
            raw = torch.zeros(len(rollout)) if output.scores is None else output.scores
            whole = raw if tokens is None else raw + tokens.sum(dim=1)
            breakdown[reward.name] = whole.where(scored, torch.full((), float("nan")))
            metrics.update(output.metrics)
            if reward.settings.on_failure == "impute" and output.scores is not None:  # tokens have no mean
                raw, imputed = impute(raw, scored, failed, rollout.group_ids)
                scored, failed = scored | imputed, failed & ~imputed
                if bool(imputed.any()):
                    metrics[f"reward/{reward.name}/imputed"] = Mean(
                        float(imputed.float().mean()), len(rollout)
                    )
            try:
                scaled, scaled_tokens = scaling.apply(raw, tokens, scored, learn=learn)
            except ValueError as error:
                raise RewardError(f"{reward.where}: {error}") from error
            if reward.settings.gate is not None:
                scaled, scaled_tokens = _gated(reward, scaled, scaled_tokens, scored, outputs, self.rewards)
            scores += weight * scaled
            if scaled_tokens is not None:
                token_rewards += weight * scaled_tokens
            if weight or not some_weight:  # without a weight it only watches
                by_sequence = output.scores is not None
                some_sequence |= by_sequence
                judged[int(by_sequence)] |= scored
                some_failed |= failed
        token_rewards[last_tokens(rollout.loss_mask)] += scores
        # Where sequence scores are given, a response without one has none: not that of its penalty, 0.
        has_reward = judged[int(some_sequence)] & ~some_failed
        named = [(reward.name, output) for (reward, _), output in zip(self.rewards, outputs, strict=True)]
        return Rewards(
            token_rewards=token_rewards,
            scores=scores,
            breakdown=breakdown,
            outcomes={name: output.outcomes for name, output in named},
            scored=has_reward,
            trained=has_reward,
            metrics=metrics,
            reasons={
                name: tuple(output.reason(i) for i in range(len(rollout)))
                for name, output in named
                if output.failures
            },
            seconds={reward.name: own for (reward, _), own in zip(self.rewards, seconds, strict=True)},
            parts={f"{name}/{part}": of for name, output in named for part, of in output.parts.items()},
            notes={
                f"{name}/{note}": tuple(of) for name, output in named for note, of in output.notes.items()
            },
        )

    def close(self) -> None:
        """End the event loop, where it has one of its own."""
        if self._owns_loop:
            self.providers.loop.close()

    def state_dict(self) -> dict[str, Any]:
        """What scores are scaled by, by provider."""
        return {reward.name: scaling.state_dict() for reward, scaling in self.rewards if scaling.scales}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: of a run with steps behind it, in which each reward has worked."""
        self._worked = {reward.key for reward, _ in self.rewards}
        for reward, scaling in self.rewards:
            if reward.name in state:
                scaling.load_state_dict(state[reward.name])


_SHOWN = ("ids", "group_ids", "prompts", "responses", "rows", "prompt_ids", "response_ids", "loss_mask")


def _is_same(known: Rollout, rollout: Rollout) -> bool:
    """Whether a rollout is what was begun with, whatever has been computed of it since."""
    return all(getattr(known, name) is getattr(rollout, name) for name in _SHOWN)


def _gated(
    reward: BuiltComponent,
    scores: Tensor,
    token_scores: Tensor | None,
    scored: Tensor,
    outputs: Sequence[RewardOutput],
    rewards: Sequence[tuple[BuiltComponent, Scaling]],
) -> tuple[Tensor, Tensor | None]:
    """Scores where the gate is open, else `otherwise`: also where the gate's reward did not score."""
    gate = reward.settings.gate
    names = [other.name for other, _ in rewards]
    output = outputs[names.index(gate.reward)]
    raw = torch.zeros(len(scored)) if output.scores is None else output.scores
    if output.token_scores is not None:
        raw = raw + output.token_scores.sum(dim=1)
    is_open = _have(output, "scored") & (raw > gate.above)
    shut = torch.full_like(scores, gate.otherwise).where(scored, torch.zeros(()))
    tokens = None if token_scores is None else token_scores.where(is_open[:, None], torch.zeros(()))
    return scores.where(is_open, shut), tokens


def _have(output: RewardOutput, outcome: Outcome) -> Tensor:
    return torch.tensor([own == outcome for own in output.outcomes], dtype=torch.bool)


def last_tokens(loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and positions of the last token that the policy wrote of each response."""
    rows, width = loss_mask.shape
    return torch.arange(rows), (loss_mask * torch.arange(width)).amax(dim=1)
