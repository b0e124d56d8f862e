"""What a step is measured by. Every mean is over real tokens, or over responses trained on.

What components report beside it is checked by `training.contracts` where it enters.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ppokit.distributed import Processes
from ppokit.plugin.kl_estimators import KLEstimator
from ppokit.plugin.masked import masked_mean, masked_variance
from ppokit.plugin.reductions import as_numbers
from ppokit.plugin.reward_output import Outcome
from ppokit.plugin.types import Advantages, Rewards, Rollout

KL_ESTIMATORS: tuple[KLEstimator, ...] = ("k1", "k3")

UNSCORED: tuple[Outcome, ...] = ("abstained", "failed")
"""Outcomes whose share of the responses the core reports under `reward/<name>/`."""


def step_metrics(rollout: Rollout, rewards: Rewards, advantages: Advantages, step: int) -> dict[str, float]:
    """Of a step's rollout, rewards and advantages."""
    return {
        **rollout_metrics(rollout, rewards),
        **engine_metrics(rollout, step - 1),
        **as_numbers(advantages.metrics),
    }


def rollout_metrics(rollout: Rollout, rewards: Rewards) -> dict[str, float]:
    """Rewards and lengths.

    `reward/mean` is the mean weighted sum of sequence scores; `reward/<provider>` the mean raw score
    of the responses that the provider scored.
    """
    answered = ~rollout.failed
    metrics = {
        "reward/mean": float(rewards.scores[rewards.scored].mean())
        if bool(rewards.scored.any())
        else float("nan"),
        "response/length": float(rollout.lengths[answered].float().mean()),
        "response/finished": float(rollout.finished[answered].float().mean()),
    }
    for name, scores in rewards.breakdown.items():
        metrics[f"reward/{name}"] = float(scores.nanmean())
    for name, numbers in rewards.parts.items():
        metrics[f"reward/{name}"] = float(numbers.nanmean())
    if not bool(rewards.scored.all()):
        metrics["reward/excluded"] = float((~rewards.scored).float().mean())
    for name, outcomes in rewards.outcomes.items():
        asked = [outcome for outcome, asked in zip(outcomes, answered.tolist(), strict=True) if asked]
        for outcome in UNSCORED:
            if outcome in asked:
                metrics[f"reward/{name}/{outcome}"] = asked.count(outcome) / len(asked)
        if set(asked) & set(UNSCORED):
            metrics[f"reward/{name}/scored"] = asked.count("scored") / len(asked)
    metrics.update(as_numbers(rewards.metrics))
    return metrics


def engine_metrics(rollout: Rollout, version: int) -> dict[str, float]:
    """How a rollout engine did: the share that failed, and how many updates old the weights were that wrote.

    Args:
        version: number of updates that the policy had had when it was asked.
    """
    failed = rollout.failed
    metrics = {"rollout/failed": float(failed.float().mean())} if bool(failed.any()) else {}
    staleness = version - rollout.policy_version[~failed]
    if len(staleness):
        metrics["rollout/staleness"] = float(staleness.float().mean())
        metrics["rollout/staleness_max"] = float(staleness.max())
    return metrics


def value_metrics(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """How well the values predicted the returns: 1 - Var(returns - values) / Var(returns).

    0 where all returns are the same, so that there was nothing to predict.
    """
    variance = masked_variance(returns, mask, variance="population")
    unexplained = masked_variance(returns - values, mask, variance="population")
    explained = 1.0 - float(unexplained) / float(variance) if variance > 0 else 0.0
    return {
        "value/explained_variance": explained,
        "value/mean": float(masked_mean(values, mask)),
        "value/return_mean": float(masked_mean(returns, mask)),
    }


def advantage_metrics(advantages: Advantages, mask: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the advantages as estimated, before whitening."""
    numbers = advantages.advantages
    return {
        "advantages/mean": float(masked_mean(numbers, mask)),
        "advantages/std": float(masked_variance(numbers, mask, variance="population").sqrt()),
    }


def peak_gb(device: torch.device) -> float:
    """Peak memory so far in GB (1e9 bytes): of the GPU, or resident in this process without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def run_metrics(clock: Clock, rollout: Rollout, processes: Processes) -> dict[str, float]:
    """Seconds by phase, tokens per second, peak memory: what a step took; the clock starts over."""
    seconds = clock.take()
    total = sum(number for name, number in seconds.items() if name != "evaluation")
    return {
        **{f"time/{name}_s": number for name, number in seconds.items()},
        "time/step_s": total,
        "tokens_per_s": float(rollout.loss_mask.sum()) / max(total, 1e-9),
        "memory/peak_gb": max(processes.gather([peak_gb(clock.device)])),
    }


class Clock:
    """Seconds by phase, of one step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; entering it again adds to it."""
        started = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def take(self) -> dict[str, float]:
        """Seconds by phase, and start over."""
        taken, self.seconds = self.seconds, {}
        return taken

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
