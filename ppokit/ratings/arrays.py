"""Ratings as arrays, one entry for each rater and item, for the statistics."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ppokit.ratings.records import Pair, RatingTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

Word = TypeVar("Word", bound=Hashable)


@dataclass(frozen=True)
class Arrays:
    """N ratings; the legend of this package: N ratings, U items, R raters, B bootstrap replicates.

    Attributes:
        items: which item each rating is of, from 0, in order of appearance. [N]
        raters: whose it is, from 0; -1 where the file does not say. [N]
        values: the rating. [N]
        rater_names: what stands in the file, in order of appearance. [R]
    """

    items: Ints
    raters: Ints
    values: Floats
    rater_names: tuple[str, ...]


def arrays_of(table: RatingTable) -> Arrays:
    """A table as arrays.

    What one rater gave one item more than once becomes its mean. Where the file does not say who rated, each
    rating is taken as another person's. A pair becomes 1 where the chosen text sorts first, else 0: raters
    agree on an item where their numbers are equal.
    """
    rows = table.rows
    # A file that holds a pair in two rows has two responses per item; each is rated on its own.
    items = _codes([(row.item, "" if isinstance(row, Pair) else row.response) for row in rows])[0]
    raters, rater_names = _codes([row.rater for row in rows])
    values = np.array(
        [float(row.chosen < row.rejected) if isinstance(row, Pair) else row.rating for row in rows], float
    )
    if "" in rater_names:
        unknown = rater_names.index("")
        raters = np.where(raters == unknown, -1, raters - (raters > unknown))
        rater_names = tuple(name for name in rater_names if name)
    key = np.where(raters < 0, len(rater_names) + np.arange(len(rows)), raters)
    width = int(key.max()) + 1
    _, first, inverse, counts = np.unique(
        items * width + key, return_index=True, return_inverse=True, return_counts=True
    )
    means = np.bincount(inverse, values) / counts
    return Arrays(items[first], raters[first], means, rater_names)


def extremes(codes: Ints, values: Floats) -> tuple[Floats, Floats]:
    """The smallest and the largest value of each code, all numbers from 0. [N], [N] -> [codes], [codes]"""
    low, high = np.full(codes.max() + 1, np.inf), np.full(codes.max() + 1, -np.inf)
    np.minimum.at(low, codes, values)
    np.maximum.at(high, codes, values)
    return low, high


def _codes(words: list[Word]) -> tuple[Ints, tuple[Word, ...]]:
    """A number for each word, and the words by number, in order of appearance."""
    known: dict[Word, int] = {}
    codes = np.array([known.setdefault(word, len(known)) for word in words], np.int64)
    return codes, tuple(known)
