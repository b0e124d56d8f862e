"""Ratings as samples: weights, halves of the raters, and parts that share no prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy")

from ppokit.errors import DataError
from ppokit.ratings.records import Pair, Rating, RatingTable
from ppokit.ratings.splitting import same_prompt
from ppokit.reward_models.samples import Choice, Sample, half_of, parts_of, subset


def rating(prompt="p", response="r", value=1.0, rater="ann", split=None, item=None) -> Rating:
    return Rating(2, prompt, response, value, rater, item or f"{prompt}/{response}", split, {})


def table_of(ratings=(), pairs=()) -> RatingTable:
    return RatingTable("file.csv", list(ratings), list(pairs), [])


def many(splits, count=6, raters=("ann",)) -> RatingTable:
    """`count` prompts in each split, with one response each and ratings that differ."""
    return table_of(
        rating(f"{split} {i}", "r", i + j, rater, split)
        for split in splits
        for i in range(count)
        for j, rater in enumerate(raters)
    )


def test_weights_by_hand() -> None:
    """Two raters whose ratings have mean 0 and deviation 1 already; weights follow 1 / (se^2 + tau^2).

    The items' ratings are 1, 0, 0, -1, and se is 0, 1, 1, 0: the sample deviation of (1, -1) is sqrt 2, over
    sqrt 2. Both the mean of se^2 and the variance of the ratings are .5, so tau^2 is 0. The floor of a tenth
    of the mean, .05, stands in for items without error: weights 20, 1, 1, 20 over their mean 10.5.
    """
    values = {"ann": [1, 1, -1, -1], "ben": [1, -1, 1, -1]}
    rows = [
        rating(f"{split} {i}", "r", value, rater, split)
        for split in ("train", "validation", "test")
        for rater, column in values.items()
        for i, value in enumerate(column)
    ]
    parts = parts_of(table_of(rows), share=0.2, seed=0)
    assert [s.rating for s in parts.fit] == [1, 0, 0, -1]
    assert [s.weight for s in parts.fit] == pytest.approx([20 / 10.5, 1 / 10.5, 1 / 10.5, 20 / 10.5])


def test_weights_are_equal_where_nothing_was_rated_twice() -> None:
    parts = parts_of(many(["train", "validation", "test"]), share=0.2, seed=0)
    assert {s.weight for s in parts.fit} == {1.0}


def test_a_split_column_is_followed() -> None:
    parts = parts_of(many(["train", "dev", "held_out"]), share=0.2, seed=0)
    for samples, name in ((parts.fit, "train"), (parts.validation, "dev"), (parts.test, "held_out")):
        assert [s.prompt for s in samples] == [f"{name} {i}" for i in range(6)]
    assert {row.split for row in parts.table.ratings} == {"held_out"}


def test_what_a_split_column_does_not_name_is_taken_from_train() -> None:
    parts = parts_of(many(["train", "test"], count=20), share=0.2, seed=0)
    assert (len(parts.fit), len(parts.validation), len(parts.test)) == (16, 4, 20)
    assert {s.prompt[:5] for s in parts.validation} == {"train"}
    assert any("names no validation" in message for message in parts.notes)


def test_a_split_of_unknown_name() -> None:
    with pytest.raises(DataError, match="split column holds 'testing'; expected train"):
        parts_of(many(["train", "testing"]), share=0.2, seed=0)
    with pytest.raises(DataError, match=r"split column holds nothing \(\d+ times\); expected train"):
        parts_of(many(["Train", "TEST", ""]), share=0.2, seed=0)


def test_what_leaks_into_a_held_out_part_is_not_fitted() -> None:
    leaking = rating(" TEST  3", "other", 9, "ann", "train")
    parts = parts_of(table_of([*many(["train", "validation", "test"]).ratings, leaking]), share=0.2, seed=0)
    assert all(same_prompt(s.prompt) != "test 3" for s in parts.fit)
    assert [s.prompt for s in parts.test] == [f"test {i}" for i in range(6)]
    assert any(message.startswith("1 samples left out") for message in parts.notes)


@given(st.lists(st.integers(0, 40), min_size=60, max_size=90), st.integers(0, 5))
def test_without_a_split_column_no_prompt_is_in_two_parts(numbers, seed) -> None:
    numbers = [*numbers, *range(60)]
    rows = [rating(f"p {n}" if i % 2 else f" P  {n} ", f"r{i}", i % 7) for i, n in enumerate(numbers)]
    parts = parts_of(table_of(rows), share=0.4, seed=seed)
    keys = [{same_prompt(s.prompt) for s in part} for part in (parts.fit, parts.validation, parts.test)]
    assert not keys[0] & keys[1]
    assert not keys[1] & keys[2]
    assert not keys[0] & keys[2]
    assert sum(map(len, (parts.fit, parts.validation, parts.test))) == len(rows)
    assert (len(keys[1]), len(keys[2])) == (12, 12)  # two halves of .4 of 60 prompts


def test_too_few_samples() -> None:
    with pytest.raises(DataError, match="1 samples to test on"):
        parts_of(
            table_of([*many(["train", "validation"]).ratings, *many(["test"], 1).ratings]), share=0.2, seed=0
        )


def test_ratings_that_are_all_alike() -> None:
    with pytest.raises(DataError, match="rated alike"):
        parts_of(table_of([rating(f"p{i}", "r", 3) for i in range(30)]), share=0.2, seed=0)


def test_two_rows_a_pair_are_choices() -> None:
    """The better one first, whichever row it stands in."""
    rows = []
    for split in ("train", "validation", "test"):
        for i in range(4):
            rows += [
                rating(f"{split} {i}", "good", 1, split=split, item=f"{split}{i}"),
                rating(f"{split} {i}", "bad", 0, split=split, item=f"{split}{i}"),
            ][:: 1 if i % 2 else -1]
    parts = parts_of(table_of(rows), share=0.2, seed=0)
    assert parts.pairs
    assert set(parts.fit) == {Choice(f"train {i}", "good", "bad") for i in range(4)}


def test_a_slip_in_the_item_column_makes_no_choices() -> None:
    """One stray response must not turn every other rating away; of choices, a few may lack the other one."""
    rows = [rating(f"p{i}", "r", float(i % 3), item=f"i{i}") for i in range(40)]
    with pytest.raises(DataError, match="share the item 'i0' but not the text"):
        parts_of(table_of([*rows, rating("p0", "typo", 2, item="i0")]), share=0.4, seed=0)
    both = [*rows, *(rating(f"p{i}", "other", 5.0, item=f"i{i}") for i in range(30))]
    parts = parts_of(table_of(both), share=0.4, seed=0)
    assert parts.pairs
    assert any(
        "items have several responses each" in message and "10 with a" in message for message in parts.notes
    )


def test_a_table_of_pairs() -> None:
    pairs = [Pair(i, f"p{i}", "a", "b", "ann", str(i), None) for i in range(40)]
    parts = parts_of(table_of(pairs=pairs), share=0.4, seed=0)
    assert (len(parts.fit), len(parts.validation), len(parts.test)) == (24, 8, 8)
    assert len(parts.table.pairs) == 8


@given(st.lists(st.sampled_from("abcdefg"), min_size=1), st.booleans())
def test_halves_of_the_raters_share_no_rater_and_lose_none(names, as_pairs) -> None:
    if as_pairs:
        table = table_of(pairs=[Pair(i, "p", "a", "b", n, "i", None) for i, n in enumerate(names)])
    else:
        table = table_of([rating(rater=name, value=i) for i, name in enumerate(names)])
    if len(set(names)) < 2:
        with pytest.raises(DataError, match="expected at least two"):
            half_of(table, "a")
        return
    a, b = half_of(table, "a"), half_of(table, "b")
    raters = [{row.rater for row in (*half.ratings, *half.pairs)} for half in (a, b)]
    assert not raters[0] & raters[1]
    assert raters[0] | raters[1] == set(names)
    assert abs(len(raters[0]) - len(raters[1])) <= 1
    assert sum(len(half.ratings) + len(half.pairs) for half in (a, b)) == len(names)


def test_a_file_that_names_no_rater_has_no_halves() -> None:
    with pytest.raises(DataError, match=r"--half b: file\.csv names no rater"):
        half_of(table_of([rating(rater="")]), "b")


def test_rows_that_name_no_rater_are_in_neither_half() -> None:
    """They could be those of a rater of the other half."""
    table = table_of([rating(rater=name) for name in ("ann", "", "ben", "")])
    halves = [half_of(table, "a"), half_of(table, "b")]
    assert sorted(row.rater for half in halves for row in half.ratings) == ["ann", "ben"]
    assert [half.notes for half in halves] == [["2 rows left out, since they name no rater"]] * 2
    with pytest.raises(DataError, match="one rater, 'ann'"):
        half_of(table_of([rating(rater="ann"), rating(rater="")]), "a")


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(0, 3))
def test_a_smaller_share_is_part_of_a_larger_one(one, other, seed) -> None:
    samples = [Sample(f"p{i // 2}", f"r{i}", 0.0, 1.0) for i in range(40)]
    small, large = (subset(samples, share, seed) for share in sorted((one, other)))
    assert set(small) <= set(large)
    assert len(small) % 2 == 0
    assert subset(samples, 1.0, seed) == samples


def test_five_prompts_are_enough() -> None:
    """One to stop by and one to test on, with a word of warning."""
    rows = [rating(f"p{i}", f"r{j}", i + j) for i in range(5) for j in range(3)]
    parts = parts_of(table_of(rows), share=0.2, seed=0)
    assert (len(parts.fit), len(parts.validation), len(parts.test)) == (9, 3, 3)
    assert "only 3 samples to test on: the numbers say little" in parts.notes
