"""What a step is measured by. Every mean is over real tokens, or over responses trained on."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ppokit.plugin.kl_estimators import KLEstimator, kl
from ppokit.plugin.masked import masked_mean, masked_variance
from ppokit.plugin.types import Advantages, Rewards, Rollout

KL_ESTIMATORS: tuple[KLEstimator, ...] = ("k1", "k3")


def rollout_metrics(rollout: Rollout, rewards: Rewards) -> dict[str, float]:
    """Rewards, KL from the reference, lengths.

    `reward/mean` is the mean weighted sum of sequence scores; `reward/<provider>` the mean raw score
    of the responses that the provider scored; `kl/<estimator>` the mean nats per token.
    """
    metrics = {
        "reward/mean": float(rewards.scores[rewards.scored].mean())
        if bool(rewards.scored.any())
        else float("nan"),
        "response/length": float(rollout.lengths.float().mean()),
        "response/finished": float(rollout.finished.float().mean()),
    }
    for name, scores in rewards.breakdown.items():
        metrics[f"reward/{name}"] = float(scores.nanmean())
    if not bool(rewards.scored.all()):
        metrics["reward/excluded"] = float((~rewards.scored).float().mean())
    if rollout.old_logprobs is not None and rollout.ref_logprobs is not None:
        for estimator in KL_ESTIMATORS:
            numbers = kl(rollout.old_logprobs, rollout.ref_logprobs, estimator=estimator)
            metrics[f"kl/{estimator}"] = float(masked_mean(numbers, rollout.response_mask))
    metrics.update(rewards.metrics)
    return metrics


def value_metrics(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """How well the values foretold the returns: 1 - Var(returns - values) / Var(returns).

    0 where all returns are the same, so that there was nothing to foretell.
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
    """Mean and spread of the advantages as estimated, before whitening."""
    numbers = advantages.advantages
    return {
        "advantages/mean": float(masked_mean(numbers, mask)),
        "advantages/std": float(masked_variance(numbers, mask, variance="population").sqrt()),
        **advantages.metrics,
    }


def peak_gb(device: torch.device) -> float:
    """Peak memory so far in GB (1e9 bytes): of the GPU, or resident in this process without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


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
