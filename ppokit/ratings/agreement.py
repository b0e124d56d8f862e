"""How far raters agree: Krippendorff's alpha and split-half rank correlation, with bootstrap intervals.

    alpha = 1 - D_o / D_e

    D_o = 1/n sum_u 1/(m_u - 1) sum_{i != j in u} d(x_i, x_j)      disagreement within items
    D_e = 1/(n (n - 1)) sum_{i != j} d(x_i, x_j)                    disagreement of any two ratings

over the n ratings of items u that have m_u >= 2 of them. d is the squared difference: of the ratings at the
level `interval`, of their mid-ranks at the level `ordinal` (Krippendorff 2011, Computing Krippendorff's
Alpha-Reliability). 1 is full agreement, 0 what chance gives.

Split-half: the ratings of each item are dealt at random into two halves, and the halves' means are compared
over items by Spearman's rho, averaged over many deals. A half holds half of the raters, so the Spearman-Brown
formula, 2 rho / (1 + rho) (Brown 1910), says what two panels of all raters would reach; for ranks it is an
approximation.

Intervals are percentile bootstrap over items (Efron 1979): in each replicate, items are drawn with
replacement. For the split-half each replicate takes one deal, so that its interval also holds what the deal
adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats, Ints

Level = Literal["interval", "ordinal"]
REPLICATES = 1000
DEALS = 50
LEAST_ITEMS = 3
LEAST_ITEMS_FOR_AN_INTERVAL = 5
_COINCIDENCES_THAT_FIT = 10_000_000  # the library holds items x values^2 numbers, several times over
_CHUNK = 4_000_000
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval, which is None with under five items."""

    value: float
    low: float | None
    high: float | None


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rho; NaN where one does not vary, or there are fewer than two. [N], [N]"""
    from scipy.stats import spearmanr

    varies = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
    return float(spearmanr(a, b).statistic) if varies else float("nan")


def shared(items: Ints, values: Floats) -> tuple[Ints, Floats]:
    """The ratings of items that have two or more: the item, 0 to U - 1, and the rating. [N] -> [n] each"""
    chosen = np.flatnonzero(np.bincount(items)[items] >= 2)
    return np.unique(items[chosen], return_inverse=True)[1], values[chosen]


def alpha(
    items: Ints, values: Floats, level: Level, *, seed: int = 0, replicates: int = REPLICATES
) -> Estimate | None:
    """Krippendorff's alpha; None where no item has two ratings, or all ratings are equal.

    Args:
        items, values: which item each rating is of, and the rating. [N]
        level: `interval` counts distances on the scale, `ordinal` only the order.
        seed, replicates: of the bootstrap.
    """
    units, kept = shared(items, values)
    if not len(units) or np.ptp(kept) == 0:
        return None
    count = int(units.max()) + 1
    value = _by_library(units, kept, level)
    if value is None:
        value = float(alpha_weighted(units, kept, np.ones((1, count)), level)[0])
    drawn = np.concatenate(
        [alpha_weighted(units, kept, weights, level) for weights in _resamples(count, replicates, seed)]
    )
    return _interval(value, drawn, count)


def _by_library(units: Ints, values: Floats, level: Level) -> float | None:
    import krippendorff

    domain, codes = np.unique(values, return_inverse=True)
    if (int(units.max()) + 1) * len(domain) ** 2 > _COINCIDENCES_THAT_FIT:
        return None
    counts = np.zeros((int(units.max()) + 1, len(domain)), np.int64)
    np.add.at(counts, (units, codes), 1)
    return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level))


def alpha_weighted(units: Ints, values: Floats, weights: Floats, level: Level) -> Floats:
    """Alpha where item u counts `weights[b, u]` times; the `krippendorff` library's number at weights of 1.

    Args:
        units: the item of each rating, 0 to U - 1, each with two or more. [n]
        values: the rating. [n]
        weights: [B, U]

    Returns:
        [B]; NaN where all ratings that count are equal.
    """
    m = np.bincount(units).astype(float)  # [U]
    n = _dot(weights, m)  # [B]
    if level == "interval":
        centred = values - values.mean()
        s1 = np.bincount(units, centred).astype(float)
        s2 = np.bincount(units, centred**2).astype(float)
        within = _dot(weights, (m * s2 - s1**2) / (m - 1))
        squares = n * _dot(weights, s2)
        between = squares - _dot(weights, s1) ** 2
    else:
        from scipy.sparse import csr_array

        domain, codes = np.unique(values, return_inverse=True)
        occurrences = csr_array((np.ones(len(units)), (units, codes)), shape=(len(m), len(domain)))  # [U, V]
        counts = (occurrences.T @ weights.T).T  # [B, V]
        ranks = counts.cumsum(axis=1) - counts / 2
        scaled = (occurrences.T @ (weights * (m / (m - 1))).T).T  # [B, V]
        sums = (occurrences @ ranks.T).T  # [B, U]
        within = (scaled * ranks**2).sum(axis=1) - (weights / (m - 1) * sums**2).sum(axis=1)
        squares = n * (counts * ranks**2).sum(axis=1)
        between = squares - (counts * ranks).sum(axis=1) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of equal ratings, rounding may leave a trace of a difference.
        return np.where(between > _ROUNDING * squares, 1 - (n - 1) * within / between, np.nan)


def split_half(
    items: Ints,
    values: Floats,
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    deals: int = DEALS,
) -> Estimate | None:
    """Mean Spearman correlation between two halves of each item's ratings; None with under three items.

    Args:
        items, values: which item each rating is of, and the rating. [N]
        seed, replicates, deals: how the halves are dealt, and how often; of the bootstrap.
    """
    from scipy.stats import rankdata

    units, kept = shared(items, values)
    count = len(np.unique(units))
    if count < LEAST_ITEMS:
        return None
    generator = np.random.default_rng(seed)
    halves = [deal_halves(units, kept, generator) for _ in range(deals)]
    rhos = [_correlation(rankdata(a), rankdata(b), None) for a, b in halves]
    if not np.isfinite(rhos).any():
        return None
    codes = [[np.unique(half, return_inverse=True)[1] for half in pair] for pair in halves]
    drawn, number = np.empty(replicates), 0
    for chunk in _resamples(count, replicates, seed):
        for weights in chunk:
            a, b = codes[number % deals]
            drawn[number] = _correlation(_ranks(a, weights), _ranks(b, weights), weights)
            number += 1
    return _interval(float(np.nanmean(rhos)), drawn, count)


def deal_halves(units: Ints, values: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Means of two random halves of each item's ratings; of an odd number, the second gets one more.

    Args:
        units: the item of each rating, 0 to U - 1, each with two or more. [n]
        values: the rating. [n]

    Returns:
        [U], [U]
    """
    order = np.argsort(units + generator.random(len(units)), kind="stable")
    m = np.bincount(units)
    rank_in_unit = np.arange(len(units)) - np.repeat(np.cumsum(m) - m, m)
    size = m // 2
    first = rank_in_unit < np.repeat(size, m)
    kept, where = values[order], units[order]
    a = np.bincount(where[first], kept[first], len(m)) / size
    b = np.bincount(where[~first], kept[~first], len(m)) / (m - size)
    return a, b


def spearman_brown(rho: Estimate) -> Estimate:
    """What two panels of twice the size would reach, by Spearman-Brown; nothing changes for rho below 0."""

    def stepped(value: float | None) -> float | None:
        return value if value is None or value < 0 else 2 * value / (1 + value)

    value = stepped(rho.value)
    assert value is not None
    return Estimate(value, stepped(rho.low), stepped(rho.high))


def _ranks(codes: Ints, weights: Floats) -> Floats:
    counts = np.bincount(codes, weights)
    return (np.cumsum(counts) - counts / 2)[codes]


def _correlation(x: Floats, y: Floats, weights: Floats | None) -> float:
    """Pearson's correlation; NaN where one of them does not vary."""
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    wx, wy = (x, y) if weights is None else (x * weights, y * weights)
    scale = float(np.sqrt(_dot(wx, x) * _dot(wy, y)))
    return float(_dot(wx, y)) / scale if scale > 0 else float("nan")


def _dot(x: Floats, y: Floats) -> Floats:
    """Sums over the last axis, on one core: a thousand products this small only wait for other threads."""
    product: Floats = np.einsum("...u,u->...", x, y)
    return product


def _resamples(units: int, replicates: int, seed: int) -> Iterator[Floats]:
    """How often each item is drawn in each replicate, some replicates at a time. [b, U]"""
    generator = np.random.default_rng(seed)
    size = max(1, min(replicates, _CHUNK // units))
    for start in range(0, replicates, size):
        rows = min(size, replicates - start)
        drawn = generator.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)


def _interval(value: float, drawn: Floats, items: int) -> Estimate:
    drawn = drawn[np.isfinite(drawn)]
    if items < LEAST_ITEMS_FOR_AN_INTERVAL or not len(drawn):
        return Estimate(value, None, None)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
