"""How far a number of held-out prompts is from that of the untrained policy, and how sure that is.

    gain = mean over prompts of (after - before)

The interval is the bootstrap's over prompts, paired: each prompt is answered before and after, so that how
hard it is cancels out (Efron and Tibshirani 1993, chapter 13; Koehn 2004, https://aclanthology.org/W04-3250).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Gain:
    """A mean difference, the bounds of its 95 % interval, and of how many prompts it is."""

    mean: float
    low: float
    high: float
    prompts: int


def paired_gain(before: Mapping[int, float], after: Mapping[int, float]) -> Gain | None:
    """Of prompts that have a number both times; None for fewer than two of them.

    Args:
        before, after: a number by prompt.
    """
    import numpy as np

    common = sorted(before.keys() & after.keys())
    if len(common) < 2:
        return None
    differences = np.array([after[prompt] - before[prompt] for prompt in common])
    # The same draws each time, so that a run and its continuation report the same.
    drawn = np.random.default_rng(0).integers(len(common), size=(DRAWS, len(common)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Gain(float(differences.mean()), float(low), float(high), len(common))


def by_prompt(groups: Sequence[int], numbers: Sequence[float | None]) -> dict[int, float]:
    """The mean of each prompt's responses; None is left out."""
    grouped: dict[int, list[float]] = {}
    for group, number in zip(groups, numbers, strict=True):
        if number is not None:
            grouped.setdefault(group, []).append(number)
    return {group: sum(own) / len(own) for group, own in grouped.items()}
