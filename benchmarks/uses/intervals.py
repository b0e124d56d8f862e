"""How sure a gain is: intervals over seeds and held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from judging import bleu

DRAWS = 2000


def interval(runs: Sequence[dict[str, Any]], beside: str | None = None) -> tuple[float, float, float]:
    """The judge's mean gain over runs of several seeds, and the bounds of its 95 % interval.

    The bootstrap draws seeds and prompts anew, each with replacement. Of a prompt it takes the difference
    from before the training; BLEU, which is no mean over prompts, it takes of all drawn prompts together
    (Koehn 2004, "Statistical significance tests for machine translation evaluation", section 3). What n
    seeds differ by is widened by sqrt(n / (n - 1)) beforehand: a draw of n of n varies by less than n new
    ones would. With one seed it is the paired bootstrap over prompts alone.

    Args:
        beside: another number in place of the judge's.
    """
    numbers = [run["judge"] if beside is None else run["beside"][beside] for run in runs]
    gain = _bleu_gain(numbers) if "counts" in numbers[0] else _mean_gain(numbers)
    generator = np.random.default_rng(0)
    seeds, prompts = len(numbers), len(numbers[0]["before"])
    every = gain(np.arange(prompts))
    wider = math.sqrt(seeds / (seeds - 1)) - 1 if seeds > 1 else 0.0
    further = wider * (every - every.mean())
    drawn = []
    for _ in range(DRAWS):
        of = generator.integers(seeds, size=seeds)
        drawn.append((gain(generator.integers(prompts, size=prompts)) + further)[of].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(every.mean()), float(low), float(high)


Gain = Callable[["np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]
"""Of these prompts, by their numbers: [seeds], how much each seed has gained."""


def _mean_gain(numbers: Sequence[dict[str, Any]]) -> Gain:
    differences = np.array([np.subtract(own["after"], own["before"]) for own in numbers], dtype=float)
    return lambda prompts: differences[:, prompts].mean(axis=1)


def _bleu_gain(numbers: Sequence[dict[str, Any]]) -> Gain:
    counts = np.array([own["counts"] for own in numbers])  # [seeds, before and after, prompts, 10]

    def gain(prompts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sums = counts[:, :, prompts].sum(axis=2)
        return np.array([bleu(after.tolist()) - bleu(before.tolist()) for before, after in sums])

    return gain
