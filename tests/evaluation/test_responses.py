"""What every evaluation reports of responses, and held-out prompts that are trained on."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppokit.errors import PpokitWarning
from ppokit.evaluation.overlap import warn_of_overlap
from ppokit.evaluation.responses import measure_responses
from ppokit.evaluation.view import HeldOutPrompts, HeldOutView
from ppokit.plugin import distinct_ngrams, ngrams
from rollouts import make_rollout


def view(**changes: Any) -> HeldOutView:
    nothing: Any = SimpleNamespace()
    given = {"policy": nothing, "collector": nothing, "scorer": nothing, **changes}
    empty: Any = frozenset()
    return HeldOutView(
        **given,
        prompts=[],
        rows=[],
        training_rows=[],
        prompt_column="prompt",
        is_main=True,
        seed=1,
        needs=empty,
        reward_needs=empty,
    )


def test_ngrams() -> None:
    assert ngrams(["a", "b", "a", "b"], 2) == [("a", "b"), ("b", "a"), ("a", "b")]
    assert ngrams("ab", 3) == []
    assert distinct_ngrams([["a", "b", "a", "b"], ["a", "b"], ["c"]], 2) == 2 / 4
    assert distinct_ngrams(["a"], 2) is None


def test_numbers_by_hand() -> None:
    """Of the first, one of four runs of three words came before; together 3 + 2 of 5 + 2 pairs differ."""
    texts = ["Ho ho ha ho ho HA", "well, yes no", "boom: the engine failed"]
    rollout = make_rollout([[1]] * 3, [[5, 6], [7], []])
    rollout = replace(rollout, responses=texts, outcomes=["finished", "truncated", "failed"])
    sums = torch.tensor([[[0.5, -2.0], [0.25, -1.0]], [[0.125, -4.0], [9.0, 9.0]], [[9.0, 9.0], [9.0, 9.0]]])
    sums = sums * rollout.loss_mask[:, :, None]
    asked = view(collector=SimpleNamespace(beside_reference=lambda rollout: sums), has_reference=True)
    assert measure_responses({None: rollout}, asked) == {"eval/greedy/distinct_2": 5 / 7}
    (record,) = asked.records
    assert record.evaluator == "greedy"
    assert record.values == {
        "length": [2.0, 1.0, None],
        "repetition": [1 / 4, 0.0, None],
        "kl": [0.375, 0.125, None],
        "ref_logprob": [-1.5, -4.0, None],
        # 2 of 2 pairs differ without the first, 3 of 5 without the second: -/+ 2/5 from their mean.
        "distinct_2": pytest.approx([5 / 7 - 1 / 5, 5 / 7 + 1 / 5, None]),
    }


def test_the_most_samples_count_and_without_a_reference_there_is_no_kl() -> None:
    two, four = (replace(make_rollout([[1]] * n, [[2]] * n), responses=["a b"] * n) for n in (2, 4))
    asked = view()
    assert measure_responses({4: four, 2: two}, asked) == {"eval/sampled/distinct_2": 1 / 4}
    (record,) = asked.records
    assert (record.evaluator, len(record.rollout), set(record.values)) == (
        "sampled",
        4,
        {"length", "repetition", "distinct_2"},
    )
    assert record.values["distinct_2"] == pytest.approx([1 / 4] * 4)  # 1/3 without any of them


def test_pairs_of_words_of_one_response_alone() -> None:
    rollout = replace(make_rollout([[1]] * 2, [[2]] * 2), responses=["a b c", "d"])
    asked = view()
    assert measure_responses({None: rollout}, asked) == {"eval/greedy/distinct_2": 1.0}
    assert asked.records[0].values["distinct_2"] == [None, None]


def held_out(*texts: str) -> HeldOutPrompts:
    return HeldOutPrompts(texts, [{} for _ in texts], range(2, 2 + len(texts)))


@pytest.mark.parametrize("text", ["Tell  me\n a joke ", "TELL ME A JOKE", "\ufb01sh and \u2460"])
def test_held_out_prompts_that_are_trained_on_are_counted(text: str) -> None:
    """White space, letter case and forms of Unicode make no other prompt."""
    training = ["Tell me a joke", "Fish and 1", "x"]
    with pytest.warns(
        PpokitWarning, match=r"evaluation.prompts: 2 of 3 held-out prompts .* The first is row 3"
    ):
        warn_of_overlap(training, held_out("another one", text, "x"))


def test_held_out_prompts_that_are_there_twice_are_counted() -> None:
    with pytest.warns(
        PpokitWarning, match=r"2 of 4 held-out prompts are there before, .*distinct: true.* is row 4"
    ):
        warn_of_overlap(["x"], held_out("one", "two", " ONE", "two"))


def test_others_are_not() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_overlap(["a b", "c"], held_out("ab", "a  b c", ""))
        warn_of_overlap(["a"], HeldOutPrompts())
