"""What a file of ratings holds, and how far it can be trusted, as numbers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ppokit.errors import DataError
from ppokit.messages import listed
from ppokit.ratings.agreement import (
    REPLICATES,
    Estimate,
    Level,
    alpha,
    rank_correlation,
    shared,
    spearman_brown,
    split_half,
)
from ppokit.ratings.arrays import Arrays, arrays_of, extremes
from ppokit.ratings.records import RatingTable
from ppokit.ratings.repeats import repeats_of

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats

MOST_VALUES = 11
BINS = 10


@dataclass(frozen=True)
class Scale:
    """The ratings themselves: smallest, largest, how many different ones, whether all are whole numbers."""

    low: float
    high: float
    different: int
    whole: bool
    mean: float
    median: float
    std: float


@dataclass(frozen=True)
class Bar:
    """How many ratings are `low`, where the two are equal, or lie from `low` to below `high`; the last bar
    takes its `high` in."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Agreement:
    """How far raters agree, over the items that have two ratings or more.

    Attributes:
        level: of alpha.
        items: how many such items there are.
        alpha: Krippendorff's; 1 is full agreement, 0 is chance.
        split_half: Spearman's rho between halves of the raters; None for pairs.
        all_raters: the same for panels of all raters, by Spearman-Brown.
        far_apart: share of these items on which two ratings differ by half of the scale or more.
    """

    level: str
    items: int
    alpha: Estimate | None
    split_half: Estimate | None
    all_raters: Estimate | None
    far_apart: float | None


@dataclass(frozen=True)
class Rater:
    """One rater.

    Attributes:
        ratings: items rated.
        mean, std: of the ratings; the std is their standard deviation, None for a single one.
        compared: items that others rated too.
        bias: mean of own rating minus the mean of the others', on those items.
        agreement: Spearman's rho with the mean of the others on those items; for pairs, the share of items on
            which most others chose the same.
    """

    name: str
    ratings: int
    mean: float | None
    std: float | None
    compared: int
    bias: float | None
    agreement: float | None


@dataclass(frozen=True)
class Aspect:
    """One aspect column: its numbers, and Spearman's rho with the rating of the same row where both vary."""

    name: str
    ratings: int
    mean: float
    std: float
    spearman: float | None


@dataclass(frozen=True)
class Stats:
    """All of it. `ratings_an_item` counts items by their number of ratings; `coverage` is the share of all
    raters times items that was rated; `longer_chosen` is the share of pairs whose longer text was chosen."""

    source: str
    kind: str
    rows: int
    bad_rows: int
    notes: tuple[str, ...]
    prompts: int
    items: int
    splits: dict[str, int]
    scale: Scale | None
    distribution: tuple[Bar, ...]
    ratings_an_item: dict[int, int]
    coverage: float | None
    longer_chosen: float | None
    agreement: Agreement
    raters: tuple[Rater, ...]
    aspects: tuple[Aspect, ...]
    duplicates: int
    contradictions: int


def stats_of(
    table: RatingTable, *, level: Level = "interval", seed: int = 0, replicates: int = REPLICATES
) -> Stats:
    """The statistics of a table.

    Args:
        level: of Krippendorff's alpha.
        seed, replicates: of the bootstrap; with 1,000 replicates, another seed moves the ends of an interval
            by a few thousandths.

    Raises:
        DataError: the libraries of the extra `ratings` are not installed.
    """
    missing = [name for name in ("scipy", "krippendorff") if find_spec(name) is None]
    if missing:
        raise DataError(f"statistics need {listed(missing)}: pip install 'ppokit[ratings]'.")
    arrays = arrays_of(table)
    repeats = repeats_of(table)
    are_pairs = bool(table.pairs)
    values = np.array([rating.rating for rating in table.ratings])
    counts = np.bincount(arrays.items)
    sizes, items = np.unique(counts, return_counts=True)
    everyone_named = len(arrays.rater_names) > 1 and bool((arrays.raters >= 0).all())
    texts = [(p.chosen, p.rejected) for p in table.pairs if len(p.chosen) != len(p.rejected)]
    return Stats(
        source=table.source,
        kind="pairs" if are_pairs else "ratings",
        rows=len(table.rows),
        bad_rows=len(table.bad_rows),
        notes=tuple(table.notes),
        prompts=len({row.prompt for row in table.rows}),
        items=len(counts),
        splits=dict(Counter(row.split for row in table.rows if row.split is not None)),
        scale=None if are_pairs else _scale(values),
        distribution=() if are_pairs else distribution(values),
        ratings_an_item={int(size): int(number) for size, number in zip(sizes, items, strict=True)},
        coverage=len(arrays.items) / (len(arrays.rater_names) * len(counts)) if everyone_named else None,
        longer_chosen=float(np.mean([len(c) > len(r) for c, r in texts])) if texts else None,
        agreement=_agreement(arrays, level, are_pairs, seed, replicates),
        raters=_raters(arrays, are_pairs),
        aspects=_aspects(table),
        duplicates=sum(not repeat.contradicts for repeat in repeats),
        contradictions=sum(repeat.contradicts for repeat in repeats),
    )


def _scale(values: Floats) -> Scale:
    different = np.unique(values)
    return Scale(
        low=float(different[0]),
        high=float(different[-1]),
        different=len(different),
        whole=bool((different == np.round(different)).all()),
        mean=float(values.mean()),
        median=float(np.median(values)),
        std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
    )


def distribution(values: Floats) -> tuple[Bar, ...]:
    """Ratings by value where there are few values, else in some ten bars between round numbers."""
    different, counts = np.unique(values, return_counts=True)
    low, high = float(different[0]), float(different[-1])
    if len(different) <= MOST_VALUES:
        known = {float(v): int(n) for v, n in zip(different, counts, strict=True)}
        if high - low < MOST_VALUES and all(v == round(v) for v in known):
            known = {float(v): known.get(v, 0) for v in range(round(low), round(high) + 1)}
        return tuple(Bar(value, value, count) for value, count in known.items())
    power = 10 ** math.floor(math.log10((high - low) / BINS))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k * BINS >= (high - low) * 0.999)
    first = math.floor(low / step)
    edges = np.arange(first, max(math.ceil(high / step), first + 1) + 1) * step
    numbers, _ = np.histogram(values, bins=edges)
    return tuple(Bar(float(edges[i]), float(edges[i + 1]), int(n)) for i, n in enumerate(numbers))


def _agreement(arrays: Arrays, level: Level, are_pairs: bool, seed: int, replicates: int) -> Agreement:
    items, values = shared(arrays.items, arrays.values)
    number = len(np.unique(items))
    half = None if are_pairs else split_half(arrays.items, arrays.values, seed=seed, replicates=replicates)
    apart = None
    width = np.ptp(arrays.values)
    if number and width > 0:
        low, high = extremes(items, values)
        apart = float(np.mean(high - low >= width / 2))
    return Agreement(
        # Of two values, distances are equal, so that the level says nothing.
        level="nominal" if are_pairs else level,
        items=number,
        alpha=alpha(arrays.items, arrays.values, level, seed=seed, replicates=replicates),
        split_half=half,
        all_raters=None if half is None else spearman_brown(half),
        far_apart=apart,
    )


def _aspects(table: RatingTable) -> tuple[Aspect, ...]:
    aspects = []
    for name in table.ratings[0].aspects if table.ratings else ():
        pairs = [(r.aspects[name], r.rating) for r in table.ratings if r.aspects[name] is not None]
        if not pairs:
            continue
        x, y = np.array(pairs, float).T
        rho = rank_correlation(x, y)
        std = float(x.std(ddof=1)) if len(x) > 1 else 0.0
        aspects.append(Aspect(name, len(x), float(x.mean()), std, None if math.isnan(rho) else rho))
    return tuple(aspects)


def _raters(arrays: Arrays, are_pairs: bool) -> tuple[Rater, ...]:
    counts = np.bincount(arrays.items)[arrays.items]
    sums = np.bincount(arrays.items, arrays.values)[arrays.items]
    with np.errstate(divide="ignore", invalid="ignore"):
        others = (sums - arrays.values) / (counts - 1)
    order = np.argsort(arrays.raters, kind="stable")
    starts = np.searchsorted(arrays.raters[order], np.arange(len(arrays.rater_names)))
    raters = []
    for name, mine in zip(arrays.rater_names, np.split(order, starts)[1:], strict=True):
        values = arrays.values[mine]
        both = mine[counts[mine] >= 2]
        own, other = arrays.values[both], others[both]
        bias = agreement = None
        if are_pairs:
            decided = (own != 0.5) & (other != 0.5)
            agreement = float(np.mean((own > 0.5) == (other > 0.5), where=decided)) if decided.any() else None
        elif len(both):
            bias = float((own - other).mean())
            rho = rank_correlation(own, other) if len(both) > 2 else math.nan
            agreement = None if math.isnan(rho) else rho
        raters.append(
            Rater(
                name=name,
                ratings=len(mine),
                mean=None if are_pairs else float(values.mean()),
                std=float(values.std(ddof=1)) if len(mine) > 1 and not are_pairs else None,
                compared=len(both),
                bias=bias,
                agreement=agreement,
            )
        )
    return tuple(raters)
