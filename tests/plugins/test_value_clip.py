"""The clipped value loss against hand-worked numbers, a double loop and its gradient."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loss_checks import assert_padding_is_ignored, cases
from ppokit_losses.value_clip import ValueClip, value_clip

# v, old, target: inside the range; moved past it towards the target; moved past it away from the target
VALUES = torch.tensor([[1.1, 2.0, 0.0]])
OLD = torch.tensor([[1.0, 1.0, 1.0]])
RETURNS = torch.tensor([[2.0, 2.0, 2.0]])


def test_by_hand() -> None:
    loss = value_clip(VALUES, OLD, RETURNS, clip_range=0.2)
    # 0.5 * .9^2; clip gives 1.2: 0.5 * .8^2 (not 0); 0.5 * 2^2 (not 0.5 * 1.2^2)
    torch.testing.assert_close(loss, torch.tensor([[0.405, 0.32, 2.0]]))


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    seed=st.integers(0, 2**31),
    clip_range=st.floats(0.01, 3),
)
@settings(deadline=None)
def test_equals_the_definition(shape, seed, clip_range) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, old, returns = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(values)
    for b in range(shape[0]):
        for t in range(shape[1]):
            v, o, target = values[b, t].item(), old[b, t].item(), returns[b, t].item()
            clipped = min(max(v, o - clip_range), o + clip_range)
            expected[b, t] = 0.5 * max((v - target) ** 2, (clipped - target) ** 2)
    torch.testing.assert_close(value_clip(values, old, returns, clip_range=clip_range), expected)


def test_a_wide_range_is_half_the_squared_error() -> None:
    values, old, returns = torch.randn(3, 4, 5)
    torch.testing.assert_close(
        value_clip(values, old, returns, clip_range=1e6), 0.5 * (values - returns).square()
    )


def test_gradient_is_the_error_or_zero_where_the_clip_stops_it() -> None:
    values = VALUES.clone().requires_grad_()
    value_clip(values, OLD, RETURNS, clip_range=0.2).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[-0.9, 0.0, -2.0]]))


def test_gradcheck_away_from_kinks() -> None:
    values = VALUES.double().requires_grad_()
    old, returns = OLD.double(), RETURNS.double()
    assert torch.autograd.gradcheck(lambda v: value_clip(v, old, returns, clip_range=0.2), (values,))


def test_padding_changes_nothing() -> None:
    padded = [torch.nn.functional.pad(x, (0, 2), value=math.nan) for x in (VALUES, OLD, RETURNS)]
    clean = value_clip(VALUES, OLD, RETURNS, clip_range=0.2)
    torch.testing.assert_close(value_clip(*padded, clip_range=0.2)[:, :3], clean)


@given(case=cases(3))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    assert_padding_is_ignored(partial(value_clip, clip_range=0.2), case)


def test_bfloat16_is_computed_in_float32() -> None:
    loss = value_clip(*(x.bfloat16() for x in (VALUES, OLD, RETURNS)), clip_range=0.2)
    assert loss.dtype == torch.float32
    assert loss[0, 1].item() == pytest.approx(0.32, rel=1e-6)  # bfloat16 would give 0.3203


def test_component_and_metrics(make_inputs) -> None:
    inputs = make_inputs(values=VALUES.clone().requires_grad_(), old_values=OLD, returns=RETURNS)
    output = ValueClip(clip_range=0.5).token_losses(inputs)
    torch.testing.assert_close(output.token_losses.detach(), torch.tensor([[0.405, 0.125, 2.0]]))
    fraction = output.metrics["value/clip_fraction"]
    assert fraction.tolist() == [[0, 1, 0]]
    assert not fraction.requires_grad


@pytest.mark.parametrize("wrong", [{"clip_range": 0}, {"clip_range": math.inf}, {"range": 1}])
def test_options_are_bounded(wrong) -> None:
    with pytest.raises(ValidationError):
        ValueClip(**wrong)
