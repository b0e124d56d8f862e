"""Batches of samples of about the same length."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ppokit.plugin.batching import length_batches, length_groups, shuffled_batches, token_batches


@given(
    lengths=st.lists(st.integers(1, 60), min_size=0, max_size=30),
    budget=st.integers(1, 200),
    padded=st.booleans(),
    data=st.data(),
)
@settings(deadline=None)
def test_token_batches_hold_everything_once_within_the_budget(
    lengths: list[int], budget: int, padded: bool, data: st.DataObject
) -> None:
    chosen = data.draw(st.permutations(range(len(lengths))))
    indices = chosen[: data.draw(st.integers(0, len(chosen)))]
    batches = token_batches(indices, lengths, budget, padded=padded)
    assert sorted(i for batch in batches for i in batch) == sorted(indices)
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(in_order, reverse=True)

    def size(batch: list[int]) -> int:
        return sum(lengths[batch[0] if padded else i] for i in batch)

    for batch, after in zip(batches, [*batches[1:], None], strict=False):
        assert len(batch) == 1 or size(batch) <= budget
        assert after is None or size([*batch, after[0]]) > budget, "the next sample would have fitted"


def test_token_batches_by_hand() -> None:
    assert token_batches([0, 1, 2, 3, 4], [3, 10, 4, 1, 4], 12) == [[1], [2, 4, 0], [3]]
    assert token_batches([0, 1, 2, 3, 4], [3, 10, 4, 1, 4], 12, padded=False) == [[1], [2, 4, 0, 3]]


def test_length_batches_by_hand() -> None:
    assert length_batches([3, 10, 4, 1, 4], 2) == [[1, 2], [4, 0], [3]]
    assert length_batches([], 2) == []


def test_length_groups_by_hand() -> None:
    """5 x 200 tokens: a group holds 1000 / 4 tokens or more."""
    groups = partial(length_groups, least_tokens=256, most=4)
    assert groups([200, 10, 190, 20, 30]) == [[0, 2], [4, 3, 1]]
    assert groups([30, 10, 20]) == [[0, 2, 1]]  # too few to be worth a pass more
    assert groups([300] * 3) == [[0, 1, 2]]  # nothing to be gained
    assert groups([300, 280, 260, 240, 220, 200]) == [[0, 1], [2, 3], [4, 5]]
    assert groups([]) == []


def test_shuffled_batches_hold_each_sample_once_among_samples_of_its_own_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 203).tolist()
    batches = list(shuffled_batches(lengths, 8, rng))
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    assert max(map(len, batches)) == 8
    mean_range = np.mean([np.ptp([lengths[i] for i in batch]) for batch in batches])
    assert mean_range < 15  # of drawn ones it is about 78
