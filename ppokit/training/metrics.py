"""What a step is measured by. Every mean is over real tokens, or over responses trained on.

What components report goes through `component_metrics`, which checks it where it enters, then `merge`, which
puts the parts of processes, resampling rounds and micro-batches together, and last `as_numbers`.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ppokit.distributed import Processes
from ppokit.errors import PluginError
from ppokit.plugin.kl_estimators import KLEstimator
from ppokit.plugin.masked import masked_mean, masked_variance
from ppokit.plugin.reductions import Max, Mean, Metric, Sum
from ppokit.plugin.types import Advantages, Outcome, Rewards, Rollout

KL_ESTIMATORS: tuple[KLEstimator, ...] = ("k1", "k3")

CORE_METRICS = frozenset(
    {
        "step",
        "learning_rate",
        "grad_norm",
        "tokens_per_s",
        "advantages/mean",
        "advantages/std",
        "advantages/masked_truncated",
        "value/explained_variance",
        "value/mean",
        "value/return_mean",
        "policy/approx_kl",
        "policy/entropy",
        "policy/ratio_std_at_start",
    }
)
"""Names that no component may report under; beside them, all names that begin as `CORE_PREFIXES`."""

CORE_PREFIXES = (
    "reward/",
    "response/",
    "rollout/",
    "kl/",
    "loss/",
    "update/",
    "groups/",
    "eval/",
    "time/",
    "memory/",
)

UNSCORED: tuple[Outcome, ...] = ("abstained", "failed")
"""Outcomes whose share of the responses the core reports under `reward/<name>/`."""

Reduction = Mean | Sum | Max


def component_metrics(
    metrics: object, where: str, *, responses: int, prefix: str = "", taken: Collection[str] = ()
) -> dict[str, Reduction]:
    """What a component reported, checked, each number with its reduction.

    Args:
        metrics: as the component returned them, by name.
        where: how errors name the component.
        responses: that it saw; the weight of a plain number, which is a mean.
        prefix: what the core puts before the names; with one, no name can be a core name.
        taken: names, prefix included, that the core or another component reports under.

    Raises:
        PluginError: no mapping, a name that is taken, or a value that is not one finite number.
    """
    if not isinstance(metrics, Mapping):
        raise PluginError(
            f"{where} returned metrics of type {type(metrics).__name__}; expected numbers by name."
        )
    checked: dict[str, Reduction] = {}
    for key, value in metrics.items():
        if not isinstance(key, str) or not key:
            raise PluginError(f"{where} returned a metric with the name {key!r}; expected a text.")
        check_metric_name(prefix + key, where, prefixed=bool(prefix), taken=taken)
        checked[prefix + key] = _reduction(key, value, where, responses)
    return checked


def check_metric_name(name: str, where: str, *, prefixed: bool = False, taken: Collection[str] = ()) -> None:
    """A component reports under a name of its own.

    Args:
        prefixed: whether the core put a prefix of the component's before the name.

    Raises:
        PluginError: the core or another component reports under this name.
    """
    core = not prefixed and (name in CORE_METRICS or name.startswith(CORE_PREFIXES))
    if core or name in taken:
        whose = "ppokit's own" if core else "taken"
        raise PluginError(f"{where} returned the metric {name!r}, a name that is {whose}; choose another.")


def _reduction(key: str, value: object, where: str, responses: int) -> Reduction:
    """One number with its reduction."""
    number = value.value if isinstance(value, Reduction) else value
    weight = value.weight if isinstance(value, Mean) else float(responses)
    try:
        if isinstance(number, str | bytes):
            raise TypeError
        number, weight = float(number), float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # the last by tensors with several elements
        number = math.nan
    if not (math.isfinite(number) and math.isfinite(weight) and weight >= 0):
        raise PluginError(
            f"{where} returned the metric {key!r} as {' '.join(repr(value).split())[:80]}; expected one "
            "finite number, or a Mean (of weight 0 or more), Sum or Max of one."
        )
    if isinstance(value, Sum | Max):
        return type(value)(number)
    return Mean(number, weight)


def merge(parts: Iterable[Mapping[str, Reduction]]) -> dict[str, Reduction]:
    """Metrics of several processes, resampling rounds or micro-batches as those of the whole.

    A name that some parts lack is taken from the others.

    Raises:
        PluginError: a name has different reductions.
    """
    by_name: dict[str, list[Reduction]] = {}
    for part in parts:
        for name, metric in part.items():
            by_name.setdefault(name, []).append(metric)
    return {name: _merged(name, metrics) for name, metrics in by_name.items()}


def _merged(name: str, metrics: list[Reduction]) -> Reduction:
    kinds = {type(metric) for metric in metrics}
    if len(kinds) > 1:
        named = " and a ".join(sorted(kind.__name__ for kind in kinds))
        raise PluginError(f"the metric {name!r} is reported as a {named}; expected one of them everywhere.")
    if kinds == {Sum}:
        return Sum(sum(metric.value for metric in metrics))
    if kinds == {Max}:
        return Max(max(metric.value for metric in metrics))
    means = [metric for metric in metrics if isinstance(metric, Mean)]
    weight = sum(mean.weight for mean in means)
    total = sum(mean.value * mean.weight for mean in means)
    return Mean(total / weight if weight else 0.0, weight)


def as_numbers(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The numbers alone; a mean of weight 0 is of nothing, and left out."""
    return {
        name: metric.value if isinstance(metric, Reduction) else metric
        for name, metric in metrics.items()
        if not isinstance(metric, Mean) or metric.weight > 0
    }


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
    if not bool(rewards.scored.all()):
        metrics["reward/excluded"] = float((~rewards.scored).float().mean())
    for name, outcomes in rewards.outcomes.items():
        asked = [outcome for outcome, asked in zip(outcomes, answered.tolist(), strict=True) if asked]
        for outcome in UNSCORED:
            if outcome in asked:
                metrics[f"reward/{name}/{outcome}"] = asked.count(outcome) / len(asked)
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
