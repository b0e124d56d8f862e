"""Runs of neighbours in a text, and how many of them are different."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def ngrams(units: Sequence[Any], n: int) -> list[tuple[Any, ...]]:
    """Each run of n units."""
    return [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]


def distinct_ngrams(texts: Iterable[Sequence[Any]], n: int) -> float | None:
    """Share of the n-grams of all texts together that are different; None where they have none.

        distinct-n = |set of n-grams| / |n-grams|

    Li et al. 2016, arXiv:1510.03055. Differs: the denominator counts n-grams and not words, so that texts
    that say nothing twice have 1. Of a text alone, 1 - distinct-n is seq-rep-n of Welleck et al. 2019,
    arXiv:1908.04319, section 4.2.

    Args:
        texts: units of each, such as its words.
    """
    runs = [run for units in texts for run in ngrams(units, n)]
    return len(set(runs)) / len(runs) if runs else None
