"""What a fit reports, against numbers by hand and naive versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy")

from ppokit.ratings.records import Pair, Rating, RatingTable
from ppokit.reward_models import quality as m
from ppokit.reward_models.report import agreement_of, choice_ceiling, quality_of
from ppokit.reward_models.samples import Choice, Sample

small = st.integers(-3, 3).map(float)
numbers = st.lists(st.tuples(small, small), min_size=2, max_size=12)


def test_pair_accuracy_by_hand() -> None:
    """Ratings 1 2 3 3: five pairs differ; three are right, one is a tie, one is wrong."""
    assert m.pair_accuracy(np.array([0.0, 5, 5, 4]), np.array([1.0, 2, 3, 3])) == pytest.approx(3.5 / 5)


@given(numbers)
def test_pair_accuracy_against_a_loop(rows) -> None:
    right, total = 0.0, 0
    for (s, r), (t, q) in itertools.combinations(rows, 2):
        if r != q:
            total += 1
            right += 0.5 if s == t else float((s > t) == (r > q))
    got = m.pair_accuracy(*(np.array(column) for column in zip(*rows, strict=True)))
    assert math.isnan(got) if not total else got == pytest.approx(right / total)


def test_pairs_of_one_prompt() -> None:
    """Prompt a has one pair, prompt b three, and all are right; over both prompts nine pairs differ."""
    scores = np.array([10.0, 11, 3, 1, 2])
    ratings = np.array([0.0, 1, 3, 1, 1.5])
    prompts = ["a", " A ", "b", "b", "b"]
    overall, within = m.pair_accuracies(scores, ratings, prompts, seed=0)
    assert within is not None
    assert overall is not None
    assert (within.value, within.pairs) == (1.0, 4)
    assert overall.pairs == 9
    wrong = m.pair_accuracies(-scores, ratings, prompts, seed=0)[1]
    assert wrong is not None
    assert wrong.value == 0


def test_no_pairs_of_one_prompt() -> None:
    assert m.pair_accuracies(np.arange(4.0), np.arange(4.0), list("abcd"), seed=0)[1] is None


def test_spearman_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400)
    scores = truth + rng.normal(size=400)
    result = m.spearman(scores, truth, [str(i) for i in range(400)], seed=0)
    ranks = [np.argsort(np.argsort(x)) for x in (scores, truth)]
    assert result.value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert result.low is not None
    assert result.high is not None
    # The standard error of a correlation of about .7 over 400 is about .026.
    assert 0.03 < result.value - result.low < 0.09
    assert 0.03 < result.high - result.value < 0.09


def test_an_interval_draws_prompts_and_not_responses() -> None:
    """Copies of the same responses under the same prompts are no news."""
    rng = np.random.default_rng(0)
    truth, prompts = rng.normal(size=60), [str(i) for i in range(60)]
    scores = truth + rng.normal(size=60)
    once = m.spearman(scores, truth, prompts, seed=0)
    four = m.spearman(np.tile(scores, 4), np.tile(truth, 4), prompts * 4, seed=0)
    assert once.low is not None
    assert four.low is not None
    assert four.value == pytest.approx(once.value)
    assert four.low == pytest.approx(once.low, abs=0.02)


def test_an_interval_of_nothing() -> None:
    result = m.spearman(np.ones(5), np.arange(5.0), list("abcde"), seed=0)
    assert math.isnan(result.value)
    assert result.low is None
    assert m.spearman(np.arange(4.0), np.arange(4.0), ["a"] * 4, seed=0).low is None


def test_calibration_finds_the_line() -> None:
    scores = np.linspace(-1, 1, 20)
    result = m.calibration(scores, 0.5 * scores + 2)
    assert (result.slope, result.intercept) == pytest.approx((0.5, 2))
    assert [b.count for b in result.bins] == [4] * 5
    assert [b.rating for b in result.bins] == pytest.approx([0.5 * b.score + 2 for b in result.bins])
    assert result.bins[0].score < result.bins[-1].score


def test_choices_calibrated_by_hand() -> None:
    """Margins of +-1, right in 3 of 4: the likeliest factor makes sigmoid(factor) .75, so it is log 3."""
    margins = np.array([1.0, 1, 1, -1] * 10)
    result = m.choice_calibration(margins)
    assert result.slope == pytest.approx(math.log(3), abs=1e-4)
    assert sum(b.rating * b.count for b in result.bins) == 30
    assert {round(b.score, 6) for b in result.bins} == {round(1 / (1 + math.exp(-1)), 6)}


def test_accuracy_of_choices_counts_ties_half() -> None:
    result = m.choice_accuracy(np.array([2.0, 0, -1, 1]), list("abcd"), seed=0)
    assert (result.value, result.pairs) == (2.5 / 4, 4)


def test_gains() -> None:
    rng = np.random.default_rng(1)
    truth, noise, prompts = rng.normal(size=100), rng.normal(size=100), [str(i) for i in range(100)]
    none = m.spearman_gain(truth, truth, truth, prompts, seed=0)
    assert (none.value, none.low, none.high) == (0, 0, 0)
    some = m.spearman_gain(truth, truth + 2 * noise, truth, prompts, seed=0)
    assert some.value == pytest.approx(1 - m.rank_correlation(truth + 2 * noise, truth))
    assert some.low is not None
    assert some.low > 0
    assert m.choice_gain(np.array([1.0, 1, -1]), np.array([1.0, -1, -1]), list("abc"), seed=0).value == 1 / 3


def test_agreement_of_ratings() -> None:
    def row(i, response, value, rater, item) -> Rating:
        return Rating(i, f"p{i}", response, value, rater, item, None, {})

    agreed = [row(i, "r", float(i), rater, str(i)) for i in range(8) for rater in ("a", "b")]
    result = agreement_of(RatingTable("f", agreed, [], []), 0, pairs=False)
    assert result is not None
    assert result.split_half is not None
    assert result.two_panels is not None
    assert (result.split_half.value, result.two_panels.value, result.ceiling) == pytest.approx((1, 1, 1))


def test_agreement_of_choices_by_hand() -> None:
    """Two of three raters alike: 2 of 6 ordered couples; then a unanimous pair, and one that splits."""

    def pair(prompt, chosen, rater) -> Pair:
        return Pair(2, prompt, chosen, "b" if chosen == "a" else "a", rater, f"{prompt}", None)

    choices = [("p0", "a", "x"), ("p0", "a", "y"), ("p0", "b", "z"), ("p1", "a", ""), ("p1", "a", "")]
    choices += [
        ("p2", "a", "x"),
        ("p2", "b", "y"),
        ("alone", "a", "x"),
        ("twice", "a", "x"),
        ("twice", "b", "x"),
    ]
    agreement = m.choice_agreement(RatingTable("f", [], [pair(*one) for one in choices], []), seed=0)
    assert agreement is not None
    assert agreement.value == pytest.approx((1 / 3 + 1 + 0) / 3)
    rows = [
        Rating(2, prompt, response, float(response == chosen), rater, prompt, None, {})
        for prompt, chosen, rater in choices
        for response in ("a", "b")
    ]
    assert m.choice_agreement(RatingTable("f", rows, [], []), seed=0) is None  # two pairs left are too few
    # Of pairs that 80 % prefer one way, two raters agree with .64 + .04.
    assert choice_ceiling(0.68) == pytest.approx(0.8)
    assert (choice_ceiling(1.0), choice_ceiling(0.3)) == (1.0, 0.5)


def test_quality_takes_the_mean_of_the_heads_and_their_std() -> None:
    samples = [Sample(f"p{i}", "r", float(i), 1.0) for i in range(10)]
    scores = np.arange(10.0)[:, None] + np.array([-1.0, 1.0])
    result = quality_of(samples, scores, None, 0)
    assert result.spearman is not None
    assert result.spearman.value == pytest.approx(1)
    assert result.calibration.slope == pytest.approx(1)
    assert result.heads_std == pytest.approx(1)
    assert quality_of(samples, scores[:, :1], None, 0).heads_std is None


def test_quality_of_choices() -> None:
    samples = [Choice(f"p{i}", "a", "b") for i in range(4)]
    chosen, rejected = (
        np.array([[1.0, 1], [1, 3], [0, 0], [0, 0]]),
        np.array([[0.0, 0], [3, 3], [1, 1], [0, 0]]),
    )
    result = quality_of(samples, chosen, rejected, 0)
    assert result.spearman is None
    assert result.pairs is not None
    assert result.pairs.value == 1.5 / 4
    assert result.main.value == result.pairs.value
    assert result.heads_std == pytest.approx((0 + 1 + 0 + 0) / 4)
