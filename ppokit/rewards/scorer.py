"""Score: ask every reward provider, account for what failed, add up what came.

A provider never becomes a silent zero. Each response has an outcome from each provider, and a step
in which more than the allowed share failed stops the run.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ppokit.distributed import Processes
from ppokit.errors import Interrupted, PluginError, RewardError, in_one_paragraph
from ppokit.plugin.metrics import Mean, Metric
from ppokit.plugin.protocols import RewardProvider
from ppokit.plugin.types import Outcome, RewardOutput, Rewards, Rollout
from ppokit.training.metrics import UNSCORED, Reduction, component_metrics, merge

Scale = Literal["none", "batch", "running", "reference"]


@dataclass
class Provider:
    """A reward provider as the recipe uses it.

    Attributes:
        name: in metrics and in the rollouts' files.
        where: how errors name it: recipe key, file and line, plugin.
        scale: what scores are divided by: nothing, their standard deviation in this batch, or over
            the run so far (this batch included); the mean stays. Or `reference`: less the mean and by
            the deviation of the first batch, which the policy sampled before any training, when it is
            the reference (Ziegler et al. 2019, arXiv:1909.08593, section 2.2).
        clip: bounds of the score after scaling.
        timeout: seconds for one batch of one process.
    """

    name: str
    where: str
    provider: RewardProvider
    weight: float
    scale: Scale = "none"
    clip: tuple[float, float] | None = None
    timeout: float | None = None


class RunningVariance:
    """Mean and variance, batch by batch.

    Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm", eq. 2.1.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, numbers: Tensor) -> None:
        """Take in a batch, [n]."""
        n = numbers.numel()
        if n == 0:
            return
        mean = float(numbers.double().mean())
        gap, total = mean - self.mean, self.count + n
        self.squares += float((numbers.double() - mean).square().sum()) + gap * gap * self.count * n / total
        self.mean += gap * n / total
        self.count = total

    @property
    def std(self) -> float:
        """Sample standard deviation so far; 1 while there is none to speak of."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return std if std > 1e-8 else 1.0


class Scorer:
    """Scores rollouts with every provider of a recipe."""

    def __init__(self, providers: Sequence[Provider], processes: Processes, max_failed: float) -> None:
        self.providers = list(providers)
        self.processes = processes
        self.max_failed = max_failed
        # What each scaled provider has learnt of its scores; of this batch alone for `batch`.
        self.spreads = {p.name: RunningVariance() for p in providers if p.scale != "none"}

    def score(self, rollout: Rollout) -> Rewards:
        """Rewards of a rollout; each process scores its share, every one gets all of them.

        Where the rollout has greedy responses, their whole rewards come along, scaled as the others are.

        Raises:
            RewardError: more outcomes failed than the error budget allows.
            PluginError: a provider broke its contract (wrong shape, NaN).
        """
        rewards = self._rewards(rollout, learn=True)
        if rollout.greedy is None:
            return rewards
        greedy = self._rewards(rollout.greedy, learn=False)
        totals = greedy.token_rewards.sum(dim=1).tolist()
        by_group = dict(zip(rollout.greedy.group_ids.tolist(), totals, strict=True))
        scored = set(rollout.greedy.group_ids[greedy.scored].tolist())
        groups = rollout.group_ids.tolist()
        both_scored = rewards.scored & torch.tensor([group in scored for group in groups])
        mean = float(greedy.scores[greedy.scored].mean()) if scored else 0.0
        return replace(
            rewards,
            greedy_returns=torch.tensor([by_group[group] for group in groups]),
            scored=both_scored,
            trained=both_scored,
            metrics={**rewards.metrics, "reward/greedy_mean": Mean(mean, len(scored))},
        )

    def look(self, rollout: Rollout) -> Rewards:
        """Rewards of a rollout that does not count: nothing is learnt of its scores."""
        return self._rewards(rollout, learn=False)

    def _rewards(self, rollout: Rollout, *, learn: bool) -> Rewards:
        """Every provider's; `learn` takes the scores into what they are scaled by."""
        token_rewards = torch.zeros(rollout.response_ids.shape)
        scores = torch.zeros(len(rollout))
        # Who was judged: by a sequence score, or by token scores alone, such as a KL penalty.
        judged = torch.zeros(2, len(rollout), dtype=torch.bool)
        some_failed = torch.zeros(len(rollout), dtype=torch.bool)
        breakdown: dict[str, Tensor] = {}
        outcomes: dict[str, tuple[Outcome, ...]] = {}
        metrics: dict[str, Metric] = {}
        some_weight = any(provider.weight for provider in self.providers)
        some_sequence = False
        for provider in self.providers:
            output = self._ask(provider, rollout)
            scored = torch.tensor([outcome == "scored" for outcome in output.outcomes])
            failed = torch.tensor([outcome == "failed" for outcome in output.outcomes])
            raw = output.scores.where(scored, torch.zeros(()))
            tokens = output.token_scores
            if tokens is not None:
                tokens = tokens.where(rollout.response_mask & scored[:, None], torch.zeros(()))
            whole = raw if tokens is None else raw + tokens.sum(dim=1)
            breakdown[provider.name] = whole.where(scored, torch.full((), float("nan")))
            shaped = self._shape(provider, raw, scored, learn).where(scored, torch.zeros(()))
            scores += provider.weight * shaped
            if tokens is not None:
                token_rewards += provider.weight * tokens
            if provider.weight or not some_weight:  # without a weight it watches, and decides nothing
                by_sequence = tokens is None or bool(raw.any())
                some_sequence |= by_sequence
                judged[int(by_sequence)] |= scored
                some_failed |= failed
            outcomes[provider.name] = output.outcomes
            metrics.update(output.metrics)
        last = (rollout.lengths - 1).clamp(min=0)
        token_rewards[torch.arange(len(rollout)), last] += scores
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

    def _shape(self, provider: Provider, raw: Tensor, scored: Tensor, learn: bool) -> Tensor:
        """Scaled, then clipped."""
        if provider.scale != "none":
            if learn and provider.scale == "batch":
                self.spreads[provider.name] = RunningVariance()
            spread = self.spreads[provider.name]
            if learn and (provider.scale != "reference" or spread.count == 0):
                spread.add(raw[scored])
            if provider.scale == "reference":
                raw = raw - spread.mean
            raw = raw / spread.std
        if provider.clip is not None:
            raw = raw.clamp(*provider.clip)
        return raw

    def _ask(self, provider: Provider, rollout: Rollout) -> RewardOutput:
        """One provider's output for the whole rollout."""
        share = self.processes.share(len(rollout))
        mine = rollout.select(share)
        output: RewardOutput | None = None
        error: BaseException | None = None
        if len(mine):
            try:
                output = _call(provider, mine)
                _check(provider, output, mine)
                prefix = f"reward/{provider.name}/"
                metrics = component_metrics(
                    output.metrics,
                    provider.where,
                    responses=len(mine),
                    prefix=prefix,
                    taken=[prefix + outcome for outcome in UNSCORED],
                )
                output = replace(output, metrics=metrics)
            except (Exception, SystemExit) as raised:  # any plugin's any error: counted, and named below
                error = raised
        # Every process takes part in every exchange, also one whose provider raised.
        broken = self.processes.gather([str(error)] if isinstance(error, PluginError) else [])
        if broken:
            # What a plugin raised itself does not say where the recipe names it.
            own = "" if broken[0].startswith(provider.where) else f"{provider.where}: "
            raise PluginError(own + broken[0]) from error
        told = "" if error is None else in_one_paragraph(error)
        if output is None or error is not None:
            all_failed: tuple[Outcome, ...] = tuple("failed" for _ in range(len(mine)))
            output = RewardOutput(torch.zeros(len(mine)), all_failed)
        records = self.processes.gather([(len(mine), told, output)])
        merged = _merge([output for count, _, output in records if count])
        failed = merged.outcomes.count("failed")
        if failed / len(rollout) > self.max_failed:  # not by a product: 0.29 * 100 is below 29
            first = next((told for _, told, _ in records if told), "it reported them as failed")
            raise RewardError(
                f"{provider.where} failed for {failed} of {len(rollout)} responses, more than "
                f"run.max_failed_rewards allows ({self.max_failed:g} of them). First cause: {first}"
            ) from error
        return merged

    def state_dict(self) -> dict[str, Any]:
        """What scores are scaled by."""
        return {name: vars(spread) for name, spread in self.spreads.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, numbers in state.items():
            vars(self.spreads[name]).update(numbers)


def _call(provider: Provider, rollout: Rollout) -> RewardOutput:
    """Ask the provider, for no longer than its timeout."""
    if provider.timeout is None:
        return provider.provider.score(rollout)
    box: list[Any] = []

    def work() -> None:
        try:
            box.append(provider.provider.score(rollout))
        except (Exception, SystemExit, Interrupted) as error:  # carried over to the waiting thread
            box.append(error)

    # A daemon: a provider that never returns must not keep the process alive.
    thread = threading.Thread(target=work, daemon=True, name=f"reward {provider.name}")
    thread.start()
    thread.join(provider.timeout)
    if not box:
        raise TimeoutError(f"no answer in {provider.timeout:g} s")
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]  # type: ignore[no-any-return]


def _check(provider: Provider, output: object, rollout: Rollout) -> None:
    """What came is what was promised."""
    b, r = rollout.response_ids.shape

    def broke(came: str, expected: str) -> PluginError:
        return PluginError(f"{provider.where} returned {came}; expected {expected}.")

    if not isinstance(output, RewardOutput):
        raise broke(f"a {type(output).__name__}", "a RewardOutput")
    if tuple(output.scores.shape) != (b,):
        raise broke(f"scores of shape {list(output.scores.shape)}", f"[{b}] (responses)")
    if len(output.outcomes) != b:
        raise broke(f"{len(output.outcomes)} outcomes", f"{b} (responses)")
    unknown = set(output.outcomes) - {"scored", "abstained", "failed"}
    if unknown:
        raise broke(f"the outcome {sorted(map(str, unknown))[0]!r}", "scored, abstained or failed")
    if output.token_scores is not None and tuple(output.token_scores.shape) != (b, r):
        came = f"token_scores of shape {list(output.token_scores.shape)}"
        raise broke(came, f"[{b}, {r}] (responses, response tokens)")
    for place, outcome in enumerate(output.outcomes):
        if outcome != "scored":
            continue
        number = float(output.scores[place])
        tokens = output.token_scores
        if tokens is not None:
            number += float(tokens[place][rollout.response_mask[place]].sum())
        if not math.isfinite(number):
            raise broke(
                f"{number} for sample {rollout.ids[place]} (response {rollout.responses[place][:60]!r})",
                "a finite number, or the outcome abstained or failed",
            )


def _merge(outputs: Sequence[RewardOutput]) -> RewardOutput:
    """Outputs of several processes as one; metrics by their reduction."""
    tokens = next((o.token_scores for o in outputs if o.token_scores is not None), None)
    token_scores = None
    if tokens is not None:
        width = tokens.shape[1]
        parts = [
            o.token_scores if o.token_scores is not None else torch.zeros(len(o.outcomes), width)
            for o in outputs
        ]
        token_scores = torch.cat(parts).float().cpu()
    return RewardOutput(
        scores=torch.cat([o.scores.float().cpu() for o in outputs]),
        outcomes=tuple(outcome for o in outputs for outcome in o.outcomes),
        token_scores=token_scores,
        metrics=merge(cast(Mapping[str, Reduction], o.metrics) for o in outputs),
    )
