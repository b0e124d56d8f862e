"""Ratings on each rater's own scale, and files in two parts by prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppokit.errors import DataError
from ppokit.ratings.normalise import normalise, z_scores
from ppokit.ratings.records import Pair, Rating, RatingTable
from ppokit.ratings.splitting import held_out, leaks, same_prompt


def table(*rows: tuple[str, float, str], split: str | None = None) -> RatingTable:
    ratings = [
        Rating(i, "p", text, value, rater, text, split, {}) for i, (text, value, rater) in enumerate(rows, 2)
    ]
    return RatingTable("r.csv", ratings, [], [])


def test_by_hand() -> None:
    """ann: 1, 3 has mean 2, sd 1: z -1, 1. ben: 0, 10, 5 has mean 5, sd sqrt(50/3): z -k, k, 0."""
    items, messages = normalise(
        table(
            ("a", 1, "ann"),
            ("b", 3, "ann"),
            ("a", 0, "ben"),
            ("b", 10, "ben"),
            ("c", 5, "ben"),
            split="train",
        )
    )
    k = 5 / math.sqrt(50 / 3)
    a, b, c = items
    assert a.rating == pytest.approx((-1 - k) / 2)
    assert b.rating == pytest.approx((1 + k) / 2)
    assert c.rating == pytest.approx(0)
    # Two numbers differ by d: their sample deviation is d / sqrt(2), the error of their mean d / 2.
    assert a.rating_se == pytest.approx((k - 1) / 2)
    assert b.rating_se == pytest.approx((k - 1) / 2)
    # Pooled within items: two items with d^2 / 2 each, over two degrees of freedom.
    assert c.rating_se == pytest.approx((k - 1) / math.sqrt(2))
    assert [item.ratings for item in items] == [2, 2, 1]
    assert (a.item, a.response, a.split) == ("a", "a", "train")
    assert messages == []


def test_a_rater_who_never_varies() -> None:
    items, messages = normalise(table(("a", 7, "flat"), ("b", 7, "flat"), ("a", 1, "ann"), ("b", 2, "ann")))
    assert [item.rating for item in items] == [-0.5, 0.5]
    assert messages == ["'flat' always gave the same number: z-scores of 0"]


def test_one_rating_per_item_has_no_error() -> None:
    items, _ = normalise(table(("a", 1, "ann"), ("b", 2, "ann")))
    assert [item.rating_se for item in items] == [None, None]


def test_repeats_count_once_and_unknown_raters_share_a_scale() -> None:
    items, _ = normalise(table(("a", 0, "ann"), ("a", 2, "ann"), ("b", 3, "ann")))
    assert [(item.rating, item.ratings) for item in items] == [(-1, 1), (1, 1)]
    items, _ = normalise(table(("a", 0, ""), ("a", 4, ""), ("b", 2, "")))
    assert [item.ratings for item in items] == [2, 1]
    assert items[0].rating == pytest.approx(0)


def test_what_cannot_be_normalised() -> None:
    with pytest.raises(DataError, match="holds pairs"):
        normalise(RatingTable("p.csv", [], [Pair(2, "p", "a", "b", "", "i", None)], []))
    rows = [Rating(2, "p", "x", 1, "", "i", None, {}), Rating(3, "p", "y", 1, "", "i", None, {})]
    with pytest.raises(DataError, match="rows 2 and 3 share the item 'i' but not the text"):
        normalise(RatingTable("r.csv", rows, [], []))
    rows = [Rating(2, "p", "x", 1, "", "i", "train", {}), Rating(3, "p", "x", 1, "", "i", "test", {})]
    with pytest.raises(DataError, match="not the split"):
        normalise(RatingTable("r.csv", rows, [], []))


VALUES = st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 50)), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(VALUES, st.floats(0.1, 10), st.floats(-100, 100))
def test_a_raters_own_scale_does_not_matter(rows: list[tuple[int, int]], factor: float, shift: float) -> None:
    raters = np.array([r for r, _ in rows])
    values = np.array([float(v) for _, v in rows])
    z, flat = z_scores(raters, values)
    for rater in set(raters.tolist()):
        own = z[raters == rater]
        assert own.mean() == pytest.approx(0, abs=1e-9)
        assert own.std() == pytest.approx(0 if rater in flat else 1, abs=1e-9)
    moved = np.where(raters == 0, values * factor + shift, values)
    again, still = z_scores(raters, moved)
    assert still == flat
    assert again == pytest.approx(z, abs=1e-6)


def test_same_prompt() -> None:
    assert same_prompt("  How\n are YOU? ") == same_prompt("how are you?") == "how are you?"
    assert same_prompt("ﬁne\u00a0day") == "fine day"
    assert same_prompt("ＡＢ１") == "ab1"
    assert same_prompt("Straße") == same_prompt("STRASSE")
    assert same_prompt("how are you") != same_prompt("how are you?")


PROMPTS = st.lists(st.text("abAB \n", min_size=1, max_size=4), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(PROMPTS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_nothing_leaks(prompts: list[str], share: float, seed: int) -> None:
    different = {same_prompt(p) for p in prompts}
    if len(different) < 2:
        with pytest.raises(DataError, match="at least two"):
            held_out(prompts, share, seed)
        return
    out = held_out(prompts, share, seed)
    assert 1 <= len(out) < len(different)
    assert abs(len(out) - share * len(different)) <= 1
    assert out == held_out(reversed(prompts), share, seed)
    rows = [(i, p, "held" if same_prompt(p) in out else "train") for i, p in enumerate(prompts)]
    assert leaks(rows) == []


def test_seeds_differ_and_more_rows_change_little() -> None:
    prompts = [f"prompt {i}" for i in range(100)]
    assert held_out(prompts, 0.2, 0) != held_out(prompts, 0.2, 1)
    before, after = held_out(prompts, 0.2, 0), held_out([*prompts, *(f"new {i}" for i in range(10))], 0.2, 0)
    assert len(before & after) >= 16


def test_leaks() -> None:
    rows = [(2, "A b", "train"), (3, "a  B", "test"), (4, "c", None), (5, "a b", "train"), (6, "c", "test")]
    assert leaks(rows) == [(3, 2, "test", "train")]
