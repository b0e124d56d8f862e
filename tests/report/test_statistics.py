"""Numbers worked out by hand, other libraries' numbers, and shares that are known by construction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ppokit.report.statistics import (
    Responses,
    length_share,
    mean_difference,
    mean_interval,
    share_interval,
    step_names,
    t_quantile,
    trend,
    variance_shares,
    window,
)

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("freedom", [3, 4, 7.5, 30, 1000])
def test_quantiles_are_students(freedom: float) -> None:
    scipy = pytest.importorskip("scipy.stats")
    assert t_quantile(freedom) == pytest.approx(scipy.t.ppf(0.975, freedom), rel=2e-3)


def test_a_difference_is_welchs() -> None:
    scipy = pytest.importorskip("scipy.stats")
    before, after = RANDOM.normal(0, 1, 20), RANDOM.normal(0.5, 3, 12)
    expected = scipy.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
    result = mean_difference(before, after)
    assert result.value == pytest.approx(after.mean() - before.mean())
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), rel=2e-3)


def test_a_slope_is_that_of_least_squares() -> None:
    scipy = pytest.importorskip("scipy.stats")
    steps = [1, 2, 5, 6, 9, 10]
    values = [0.1, 0.4, 0.2, 0.9, 0.8, 1.3]
    fit = scipy.linregress(steps, values)
    margin = scipy.t.ppf(0.975, 4) * fit.stderr
    result = trend(steps, values)
    expected = [9 * fit.slope, 9 * (fit.slope - margin), 9 * (fit.slope + margin)]
    assert [result.value, result.low, result.high] == pytest.approx(expected, rel=5e-3)


def test_a_mean_of_four() -> None:
    # 1, 2, 3, 4: standard error sqrt(5/3 / 4), t of three degrees of freedom 3.182
    result = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    margin = 3.182 * math.sqrt(5 / 3 / 4)
    assert [result.value, result.low, result.high] == pytest.approx(
        [2.5, 2.5 - margin, 2.5 + margin], abs=5e-3
    )


def test_wilsons_interval_of_none_in_ten() -> None:
    result = share_interval(0, 10)
    assert result.low == 0
    assert result.high == pytest.approx(0.2775, abs=1e-4)  # z^2 / (10 + z^2)


def test_equal_numbers_say_nothing_of_others() -> None:
    assert math.isnan(mean_difference(np.zeros(2), np.ones(2)).low)
    assert mean_difference(np.zeros(20), np.ones(20)).low == 1


@pytest.mark.parametrize(("steps", "expected"), [(1, 1), (9, 1), (14, 2), (50, 10), (1000, 10)])
def test_what_is_compared(steps: int, expected: int) -> None:
    assert window(range(steps)) == expected


def grow(slope: float, longer: float, better: float, groups: int = 40) -> Responses:
    """Two steps: responses grow by `longer` tokens, scores by slope * length and by `better` besides."""
    random = np.random.default_rng(1)
    steps = np.repeat([1.0, 2.0], groups * 4)
    group = np.repeat(np.arange(2.0 * groups), 4)
    ease = np.repeat(random.normal(0, 1, 2 * groups), 4)  # easy prompts have short answers and high scores
    lengths = 50 - 10 * ease + random.normal(0, 5, len(steps)) + longer * (steps == 2)
    scores = ease + slope * (lengths + 10 * ease) + better * (steps == 2) + random.normal(0, 0.05, len(steps))
    return Responses(steps, group, scores, lengths)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"slope": 0.1, "longer": 30, "better": 0.0}, 1.0),
        ({"slope": 0.1, "longer": 30, "better": 3.0}, 0.5),
        ({"slope": 0.0, "longer": 30, "better": 3.0}, 0.0),
        ({"slope": 0.1, "longer": 0, "better": 3.0}, 0.0),
    ],
    ids=["length alone", "half of it", "length rises beside it", "length stays"],
)
def test_what_length_explains(case: dict[str, Any], expected: float) -> None:
    share = length_share(grow(**case), [1], [2])
    assert share is not None
    assert share.low - 0.02 <= expected <= share.high + 0.02
    assert share.value == pytest.approx(expected, abs=0.2)


def test_nothing_is_explained_where_nothing_changed() -> None:
    assert length_share(grow(0.1, 0, 0.0), [1], [2]) is None


def test_the_interval_of_the_share_holds_the_truth() -> None:
    hits = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        steps = np.repeat([1.0, 2.0], 60)
        group = np.repeat(np.arange(30.0), 4)
        lengths = random.normal(50, 5, 120) + 20 * (steps == 2)
        noise = np.repeat(random.normal(0, 0.3, 30), 4) + random.normal(0, 0.5, 120)
        share = length_share(
            Responses(steps, group, 0.1 * lengths + 1.0 * (steps == 2) + noise, lengths), [1], [2]
        )
        assert share is not None
        hits += share.low <= 2 / 3 <= share.high
    assert hits >= 34  # of 38 expected; fewer have a chance of about one in a hundred


def test_shares_of_the_variance() -> None:
    # a + b / 10 of independent a and b of the same variance: 1 and 1/100 of 1.01
    a, b = RANDOM.normal(0, 1, 4000), RANDOM.normal(0, 1, 4000)
    steps = np.repeat(np.arange(40.0), 100)
    shares = variance_shares(a + b / 10 + steps, {"a": a, "b": b + steps}, steps)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["a"] == pytest.approx(1 / 1.01, abs=0.01)


def test_no_share_of_what_is_no_sum() -> None:
    a, b = RANDOM.normal(0, 1, 400), RANDOM.normal(0, 1, 400)
    assert variance_shares(a * b, {"a": a, "b": b}, np.zeros(400)) is None
    assert variance_shares(a, {"a": a}, np.zeros(400)) is None
    assert variance_shares(np.zeros(400), {"a": a, "b": b}, np.zeros(400)) is None


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([4], "step 4"),
        ([4, 7], "steps 4 and 7"),
        ([4, 5, 6], "steps 4 to 6"),
        ([4, 6, 7], "3 steps of 4 to 7"),
    ],
)
def test_steps_are_named(steps: list[int], words: str) -> None:
    assert step_names(steps) == words
