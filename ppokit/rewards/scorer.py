"""Score: ask every reward provider of a recipe, and add up what they give.

token_rewards = sum over providers of weight * (token scores, and the sequence score on the last real token)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.distributed import Processes
from ppokit.errors import PluginError, RewardError
from ppokit.plugin.reductions import Mean, Metric
from ppokit.plugin.types import Outcome, Rewards, Rollout
from ppokit.rewards.outcomes import ask
from ppokit.rewards.scaling import Scaling


class Scorer:
    """Scores rollouts with every provider of a recipe.

    Args:
        max_failed: the largest share of a rollout's responses for which a provider may fail.

    Raises:
        PluginError: a reward has built what cannot score.
    """

    def __init__(self, rewards: Sequence[BuiltComponent], processes: Processes, max_failed: float) -> None:
        self.rewards = [(reward, Scaling(reward.settings.scale, reward.settings.clip)) for reward in rewards]
        self.processes = processes
        self.max_failed = max_failed
        for reward in rewards:
            elsewhere = reward.runs_on == "main" and not processes.is_main
            if not elsewhere and not callable(getattr(reward.instance, "score", None)):
                raise PluginError(
                    f"{reward.where} built a {type(reward.instance).__name__}; expected an object with a "
                    "method score(rollout)."
                )

    def score(self, rollout: Rollout, *, learn: bool = True) -> Rewards:
        """Rewards of a rollout; each process scores its share, every one gets all of them.

        Where the rollout has greedy responses, their whole rewards come along, scaled as the others are.

        Args:
            learn: whether scores are taken into what later ones are scaled by; not for an evaluation.

        Raises:
            RewardError: more outcomes failed than the error budget allows.
            PluginError: a provider broke its contract (wrong shape, NaN).
        """
        rewards = self._rewards(rollout, learn=learn)
        if rollout.greedy is None:
            return rewards
        greedy = self._rewards(rollout.greedy, learn=False)
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

    def _rewards(self, rollout: Rollout, *, learn: bool) -> Rewards:
        """What failed to be answered is shown to no provider, and has no reward."""
        answered = (~rollout.failed).nonzero().flatten().tolist()
        if len(answered) == len(rollout):
            return self._rewards_of_answers(rollout, learn=learn)
        part = self._rewards_of_answers(rollout.select(answered), learn=learn)

        def scatter(numbers: Tensor, fill: float) -> Tensor:
            whole = torch.full((len(rollout), *numbers.shape[1:]), fill, dtype=numbers.dtype)
            whole[answered] = numbers
            return whole

        outcomes: dict[str, tuple[Outcome, ...]] = {}
        for name, known in part.outcomes.items():
            by_index = dict(zip(answered, known, strict=True))
            outcomes[name] = tuple(by_index.get(index, "abstained") for index in range(len(rollout)))
        has_reward = scatter(part.scored, False)
        return Rewards(
            token_rewards=scatter(part.token_rewards, 0.0),
            scores=scatter(part.scores, 0.0),
            breakdown={name: scatter(numbers, float("nan")) for name, numbers in part.breakdown.items()},
            outcomes=outcomes,
            scored=has_reward,
            trained=has_reward,
            metrics=part.metrics,
        )

    def _rewards_of_answers(self, rollout: Rollout, *, learn: bool) -> Rewards:
        token_rewards = torch.zeros(rollout.response_ids.shape)
        scores = torch.zeros(len(rollout))
        # Who was judged: by token scores alone, such as a KL penalty, or by a sequence score.
        judged = torch.zeros(2, len(rollout), dtype=torch.bool)
        some_failed = torch.zeros(len(rollout), dtype=torch.bool)
        breakdown: dict[str, Tensor] = {}
        outcomes: dict[str, tuple[Outcome, ...]] = {}
        metrics: dict[str, Metric] = {}
        some_weight = any(reward.settings.weight for reward, _ in self.rewards)
        some_sequence = False
        for reward, scaling in self.rewards:
            output, weight = ask(reward, rollout, self.processes, self.max_failed), reward.settings.weight
            scored = torch.tensor([outcome == "scored" for outcome in output.outcomes], dtype=torch.bool)
            raw, tokens = output.scores, output.token_scores
            whole = raw if tokens is None else raw + tokens.sum(dim=1)
            breakdown[reward.name] = whole.where(scored, torch.full((), float("nan")))
            try:
                scaled, scaled_tokens = scaling.apply(raw, tokens, scored, learn=learn)
            except ValueError as error:
                raise RewardError(f"{reward.where}: {error}") from error
            scores += weight * scaled
            if scaled_tokens is not None:
                token_rewards += weight * scaled_tokens
            if weight or not some_weight:  # without a weight it only watches
                by_sequence = tokens is None or bool(raw.any())
                some_sequence |= by_sequence
                judged[int(by_sequence)] |= scored
                some_failed |= torch.tensor([o == "failed" for o in output.outcomes], dtype=torch.bool)
            outcomes[reward.name] = output.outcomes
            metrics.update(output.metrics)
        token_rewards[last_tokens(rollout.loss_mask)] += scores
        # Where sequence scores are given, a response without one has none: not that of its penalty, 0.
        has_reward = judged[int(some_sequence)] & ~some_failed
        return Rewards(
            token_rewards=token_rewards,
            scores=scores,
            breakdown=breakdown,
            outcomes=outcomes,
            scored=has_reward,
            trained=has_reward,
            metrics=metrics,
        )

    def state_dict(self) -> dict[str, Any]:
        """What scores are scaled by, by provider."""
        return {
            reward.name: scaling.state_dict() for reward, scaling in self.rewards if scaling.scale != "none"
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for reward, scaling in self.rewards:
            if reward.name in state:
                scaling.load_state_dict(state[reward.name])


def last_tokens(loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and positions of the last token that the policy wrote of each response."""
    rows, width = loss_mask.shape
    return torch.arange(rows), (loss_mask * torch.arange(width)).amax(dim=1)
