"""Alpha and split-half against published numbers, naive loops, other libraries and simulated raters."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

krippendorff = pytest.importorskip("krippendorff")
stats = pytest.importorskip("scipy.stats")

from ppokit.ratings.agreement import (  # noqa: E402
    Estimate,
    Level,
    _correlation,
    _ranks,
    _resamples,
    alpha,
    alpha_weighted,
    deal_halves,
    spearman_brown,
    split_half,
)

# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, the data of its section D; "." is missing.
CODERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def long(text: str) -> tuple[np.ndarray, np.ndarray]:
    cells = [line.split() for line in text.strip().splitlines()]
    result = [(i, float(cell)) for row in cells for i, cell in enumerate(row) if cell != "."]
    items, values = zip(*result, strict=True)
    return np.array(items), np.array(values)


def naive_alpha(items: list[int], values: list[float], level: str) -> float | None:
    """Straight from the definition: all ordered pairs within items, and all ordered pairs."""
    units = {i: [v for j, v in zip(items, values, strict=True) if j == i] for i in items}
    units = {i: vs for i, vs in units.items() if len(vs) > 1}
    kept = [v for vs in units.values() for v in vs]
    n = len(kept)

    def distance(a: float, b: float) -> float:
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= v <= high for v in kept)
        return float((between - (kept.count(low) + kept.count(high)) / 2) ** 2) if low != high else 0.0

    observed = (
        sum(sum(distance(a, b) for a, b in permutations(vs, 2)) / (len(vs) - 1) for vs in units.values()) / n
    )
    expected = sum(distance(a, b) for a, b in permutations(kept, 2)) / (n * (n - 1))
    return None if expected == 0 else 1 - observed / expected


@pytest.mark.parametrize(("level", "published"), [("ordinal", 0.815), ("interval", 0.849)])
def test_published_numbers(level: str, published: float) -> None:
    estimate = alpha(*long(CODERS), level)  # type: ignore[arg-type]
    assert estimate is not None
    assert estimate.value == pytest.approx(published, abs=5e-4)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < published < estimate.high


RATINGS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=4, max_size=24)


@settings(max_examples=150, deadline=None)
@given(RATINGS, st.sampled_from(["interval", "ordinal"]))
def test_alpha_is_its_definition(ratings: list[tuple[int, int]], level: str) -> None:
    items, values = [i for i, _ in ratings], [v / 2 for _, v in ratings]
    assume(any(items.count(i) > 1 for i in items))
    estimate = alpha(np.array(items), np.array(values), level, replicates=1)  # type: ignore[arg-type]
    expected = naive_alpha(items, values, level)
    if expected is None:
        assert estimate is None
    else:
        assert estimate is not None
        assert estimate.value == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(RATINGS, st.sampled_from(["interval", "ordinal"]), st.integers(0, 99))
def test_weights_count_an_item_so_often(ratings: list[tuple[int, int]], level: str, seed: int) -> None:
    """The number of the bootstrap is the library's on items that are really repeated."""
    values = [[float(v) for i, v in ratings if i == item] for item in range(5)]
    values = [vs for vs in values if len(vs) > 1]
    assume(values)
    weights = np.random.default_rng(seed).integers(0, 4, len(values))
    units = np.concatenate([[i] * len(vs) for i, vs in enumerate(values)])
    drawn = [vs for vs, w in zip(values, weights, strict=True) for _ in range(w)]
    flat = [v for vs in drawn for v in vs]
    result = alpha_weighted(units, np.concatenate(values), weights[None].astype(float), level)[0]  # type: ignore[arg-type]
    if len(set(flat)) < 2:
        assert np.isnan(result)
        return
    domain = sorted(set(flat))
    counts = np.array([[vs.count(v) for v in domain] for vs in drawn])
    library = krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level)
    assert result == pytest.approx(library, abs=1e-9)


@pytest.mark.parametrize("level", ["interval", "ordinal"])
def test_equal_ratings_have_no_alpha_whatever_rounding_leaves(level: Level) -> None:
    """The second item's ratings are equal, but the mean of all, 0.6, is no number that a computer holds."""
    units, values = np.array([0, 0, 0, 1, 1]), np.array([0.0, 0.0, 3.0, 0.0, 0.0])
    assert np.isnan(alpha_weighted(units, values, np.array([[0.0, k] for k in (1, 2, 3)]), level)).all()


def test_more_values_than_the_library_has_memory_for() -> None:
    """9,000 items of 2,000 different values; the library would take 288 GB."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=9000)
    items = np.tile(np.arange(9000), 2)
    values = np.round(np.tile(truth, 2) + generator.normal(size=18000), 3)
    estimate = alpha(items, values, "interval", replicates=20)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.5, abs=0.03)  # var(truth) / (var(truth) + var(noise))


@pytest.mark.parametrize(("items", "values"), [([0, 1, 2], [1, 2, 3]), ([0, 0, 1, 1], [2, 2, 2, 2])])
def test_alpha_is_unknown(items: list[int], values: list[float]) -> None:
    assert alpha(np.array(items), np.array(values, float), "interval") is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 7), min_size=1, max_size=8), st.integers(0, 99))
def test_halves_hold_all_ratings_of_an_item(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    units = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = 2.0 ** np.arange(len(units))  # so that a sum says which ratings are in it
    a, b = deal_halves(units, values, generator)
    for unit, size in enumerate(sizes):
        total = int(values[units == unit].sum())
        first, second = a[unit] * (size // 2), b[unit] * (size - size // 2)
        assert first + second == pytest.approx(total)
        assert round(first) | total == total
        assert bin(round(first)).count("1") == size // 2


def test_split_half_of_simulated_raters() -> None:
    """Truth and noise of equal variance, four raters: Pearson between halves is 1 / (1 + 1/2) = 2/3.

    For the normal distribution Spearman's rho is 6/pi asin(r/2) = .649; over all four, r = .8 and rho = .786,
    and Spearman-Brown on ranks gives 2 * .649 / 1.649 = .787.
    """
    generator = np.random.default_rng(1)
    items = np.repeat(np.arange(4000), 4)
    values = generator.normal(size=4000)[items] + generator.normal(size=16000)
    estimate = split_half(items, values, replicates=200, deals=10)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.649, abs=0.02)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0.01 < estimate.high - estimate.low < 0.06  # the normal theory's is .037
    assert spearman_brown(estimate).value == pytest.approx(0.787, abs=0.02)


def test_halves_that_agree_and_that_cannot_be_compared() -> None:
    items = np.repeat([3, 5, 9, 11], 2)
    same = split_half(items, np.repeat([1.0, 2.0, 3.0, 4.0], 2))
    assert same is not None
    assert same.value == pytest.approx(1)
    assert split_half(items, np.ones(8)) is None
    assert split_half(np.array([0, 0, 1, 1, 2]), np.arange(5.0)) is None  # two items


def test_spearman_brown() -> None:
    assert spearman_brown(Estimate(0.5, 0.2, None)) == Estimate(2 / 3, pytest.approx(1 / 3), None)
    assert spearman_brown(Estimate(-0.1, -0.3, 0.0)) == Estimate(-0.1, -0.3, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=3, max_size=12))
def test_weighted_ranks_are_those_of_repeated_items(rows: list[tuple[int, int, int]]) -> None:
    x, y, weights = (np.array(column) for column in zip(*rows, strict=True))
    repeated_x, repeated_y = np.repeat(x, weights), np.repeat(y, weights)
    assume(len(set(repeated_x)) > 1 and len(set(repeated_y)) > 1)
    w = weights.astype(float)
    result = _correlation(_ranks(x, w), _ranks(y, w), w)
    assert result == pytest.approx(stats.spearmanr(repeated_x, repeated_y).statistic, abs=1e-9)


def test_resamples_draw_as_many_items_as_there_are() -> None:
    chunks = list(_resamples(7, 50, seed=0))
    weights = np.concatenate(chunks)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == np.concatenate(list(_resamples(7, 50, seed=0)))).all()
    assert (weights != np.concatenate(list(_resamples(7, 50, seed=1)))).any()


def test_the_interval_holds_the_truth_about_19_times_in_20() -> None:
    """60 studies of 120 items with two raters; the true alpha is 1/2. Under 51 hits are 1 in 500."""
    generator = np.random.default_rng(2)
    items = np.tile(np.arange(120), 2)
    hits = 0
    for _ in range(60):
        values = np.tile(generator.normal(size=120), 2) + generator.normal(size=240)
        estimate = alpha(items, values, "interval", replicates=300)
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= 0.5 <= estimate.high
    assert hits >= 51
