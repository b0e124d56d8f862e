"""Closeness to a target length, by hand."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ppokit_rewards.length import Length, length


def test_by_hand() -> None:
    n = torch.tensor([10, 5, 15, 0, 20, 30, 1000])
    assert length(n, target=10).tolist() == [1, 0.5, 0.5, 0, 0, -1, -1]


def test_within_the_tolerance_is_on_target() -> None:
    n = torch.tensor([8, 12, 7, 13, 3])
    torch.testing.assert_close(length(n, target=10, tolerance=2), torch.tensor([1, 1, 0.9, 0.9, 0.5]))


@pytest.mark.parametrize(
    ("unit", "expected"), [("tokens", [0.5, 0.0]), ("words", [0.75, 0.0]), ("characters", [-1.0, 0.0])]
)
def test_units(make_rollout, unit, expected) -> None:
    mask = torch.tensor([[True, True, False, False], [False, False, False, False]])
    rollout = make_rollout(["one two  three", ""], mask=mask)
    output = Length(target=4, unit=unit).score(rollout)
    assert output.scores.tolist() == expected
    assert output.outcomes == ("scored", "scored")


def test_tolerance_reaches_the_score(make_rollout) -> None:
    output = Length(target=4, tolerance=1).score(make_rollout(["a"]))
    assert output.scores.tolist() == [1.0]


@pytest.mark.parametrize(
    "wrong", [{}, {"target": 0}, {"target": 5, "tolerance": -1}, {"target": 5, "unit": "bytes"}]
)
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        Length(**wrong)
