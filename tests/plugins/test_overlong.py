"""DAPO's soft punishment of long responses, by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ppokit_rewards.overlong import Overlong, overlong, ppokit_reward_providers


def test_by_hand() -> None:
    """The paper's own: an expected length of 16,384 tokens and a buffer of 4,096 above it."""
    n = torch.tensor([1, 16_384, 17_408, 18_432, 20_480, 30_000])
    assert overlong(n, limit=20_480, buffer=4_096).tolist() == [0, 0, -0.25, -0.5, -1, -1]


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 2000))
def test_against_the_formula_as_written(limit: int, buffer: int, n: int) -> None:
    """-min(len - (max - buffer), buffer) / buffer where that is below 0."""
    expected = min(0.0, -min(n - (limit - buffer), buffer) / buffer)
    assert overlong(torch.tensor([n]), limit=limit, buffer=buffer).item() == pytest.approx(expected, abs=1e-6)


def test_real_tokens_count(make_rollout) -> None:
    mask = torch.tensor([[True, True, True, True], [True, False, True, False], [False] * 4])
    output = Overlong(limit=4, buffer=2).score(make_rollout(["a"] * 3, mask=mask))
    assert output.scores.tolist() == [-1, 0, 0]
    assert output.outcomes == ("scored",) * 3


@pytest.mark.parametrize("wrong", [{}, {"limit": 0, "buffer": 1}, {"limit": 5, "buffer": 0}, {"limit": 5}])
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        Overlong(**wrong)


def test_a_buffer_beyond_the_limit_is_refused(unknown_columns) -> None:
    (component,) = ppokit_reward_providers()
    assert component.check is not None
    assert list(component.check(Overlong(limit=5, buffer=5), unknown_columns)) == []
    (sentence,) = component.check(Overlong(limit=5, buffer=6), unknown_columns)
    assert "buffer 6 and limit 5" in sentence
