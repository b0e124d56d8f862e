"""Importance weights between sampler and trainer: hand-worked numbers, a double loop, bounds, padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loss_checks import INF, NAN, cases, spoiled
from ppokit.plugin.protocols import AdvantageWeighting
from ppokit_losses.off_policy_correction import (
    OffPolicyCorrection,
    off_policy_correction,
)

# Weights by hand: token ratios 2.5, .4, 1.5 in the first row (product 1.5); .5, a gap, 3 in the second (1.5)
RATIOS = torch.tensor([[2.5, 0.4, 1.5], [0.5, 99.0, 3.0]])
MASK = torch.tensor([[True, True, True], [True, False, True]])
SAMPLER = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, -1.0]])
OLD = SAMPLER + RATIOS.log()


def weights(level, mode, cap, floor=0.0, old=OLD, sampler=SAMPLER, mask=MASK):
    return off_policy_correction(old, sampler, mask, level=level, mode=mode, cap=cap, floor=floor)


@pytest.mark.parametrize(
    ("level", "mode", "cap", "floor", "expected"),
    [
        ("token", "truncate", 2.0, 0.0, [[2.0, 0.4, 1.5], [0.5, 0, 2.0]]),
        ("token", "mask", 2.0, 0.0, [[0, 0.4, 1.5], [0.5, 0, 0]]),
        ("token", "mask", 2.6, 0.45, [[2.5, 0, 1.5], [0.5, 0, 0]]),
        ("sequence", "truncate", 2.0, 0.0, [[1.5, 1.5, 1.5], [1.5, 0, 1.5]]),
        ("sequence", "truncate", 1.2, 0.0, [[1.2, 1.2, 1.2], [1.2, 0, 1.2]]),
        ("sequence", "mask", 1.2, 0.0, [[0, 0, 0], [0, 0, 0]]),
        ("sequence", "mask", 2.0, 0.9, [[1.5, 1.5, 1.5], [1.5, 0, 1.5]]),
    ],
)
def test_by_hand(level, mode, cap, floor, expected) -> None:
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(weights(level, mode, cap, floor), expected)


def test_both_bounds_are_kept() -> None:
    exact = torch.tensor([[2.0, 0.5]]).log()
    kept = weights("token", "mask", 2.0, 0.5, exact, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(kept, torch.tensor([[2.0, 0.5]]))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_the_same_policy_weighs_1(level, mode) -> None:
    assert weights(level, mode, 1.0, old=SAMPLER).tolist() == MASK.float().tolist()


@given(
    case=cases(2),
    level=st.sampled_from(["token", "sequence"]),
    mode=st.sampled_from(["truncate", "mask"]),
    cap=st.floats(1, 5),
    floor=st.floats(0, 1),
)
@settings(deadline=None)
def test_equals_the_definition(case, level, mode, cap, floor) -> None:
    (old, sampler), mask = case
    expected = torch.zeros_like(old)
    for b in range(old.shape[0]):
        real = [t for t in range(old.shape[1]) if mask[b, t]]
        whole = sum((old[b, t] - sampler[b, t]).item() for t in real)
        for t in real:
            difference = whole if level == "sequence" else (old[b, t] - sampler[b, t]).item()
            w = math.exp(min(difference, 60))
            expected[b, t] = min(w, cap) if mode == "truncate" else (w if floor <= w <= cap else 0)
    torch.testing.assert_close(weights(level, mode, cap, floor, old, sampler, mask), expected)


@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_wide_bounds_make_another_policys_tokens_count_as_this_ones(mode) -> None:
    """Over a whole distribution: E_sampler[w f] = E_old[f]."""
    old = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    sampler = torch.tensor([[0.2, 0.2, 0.6]], dtype=torch.float64)
    f = torch.tensor([[1.0, -2.0, 5.0]], dtype=torch.float64)
    result = weights("token", mode, 10.0, 0.0, old.log(), sampler.log(), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close((sampler * result * f).sum(), (old * f).sum())


@given(case=cases(2), level=st.sampled_from(["token", "sequence"]))
@settings(deadline=None)
def test_what_stands_on_padding_changes_nothing(case, level) -> None:
    tensors, mask = case
    clean = weights(level, "truncate", 2.0, 0.0, *tensors, mask)
    for value in (NAN, INF, -INF):
        old, sampler = (spoiled(x, mask, value) for x in tensors)
        assert weights(level, "truncate", 2.0, 0.0, old, sampler, mask).tolist() == clean.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("difference", [50.0, -50.0, 500.0, -500.0])
def test_far_policies_stay_finite(difference, level, dtype) -> None:
    old = torch.full((1, 3), difference, dtype=dtype)
    mask = torch.ones(1, 3, dtype=torch.bool)
    result = weights(level, "truncate", 1e30, 0.0, old, torch.zeros_like(old), mask)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert (result > 1e20).all() if difference > 0 else (result < 1e-20).all()


@pytest.mark.parametrize(
    ("level", "mode", "expected"),
    [
        ("token", "truncate", [[2.0, 0.4, 1.5], [0.5, 0, 2.0]]),
        ("token", "mask", [[0, 0.4, 1.5], [0.5, 0, 0]]),
        ("sequence", "truncate", [[2.0, 2.0, 2.0], [1.5, 0, 1.5]]),
        ("sequence", "mask", [[0, 0, 0], [1.5, 0, 1.5]]),
    ],
)
@pytest.mark.parametrize("old_too", [False, True])
def test_a_token_that_the_sampler_could_not_draw(level, mode, expected, old_too) -> None:
    """Its ratio is infinite: the cap is the answer, or the token is masked; -inf on both sides too."""
    old, sampler = OLD.clone(), SAMPLER.clone()
    sampler[0, 0] = -INF
    if old_too:
        old[0, 0] = -INF
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(weights(level, mode, 2.0, 0.0, old, sampler), expected)


@given(
    case=cases(2),
    infinite=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8),
    level=st.sampled_from(["token", "sequence"]),
    mode=st.sampled_from(["truncate", "mask"]),
)
@settings(deadline=None)
def test_infinite_logprobs_give_weights_within_the_bounds(case, infinite, level, mode) -> None:
    (old, sampler), mask = case
    for number, (old_too, sampler_too) in enumerate(infinite):
        row, column = number % old.shape[0], number % old.shape[1]
        old[row, column] = -INF if old_too else old[row, column]
        sampler[row, column] = -INF if sampler_too else sampler[row, column]
    result = weights(level, mode, 2.0, 0.0, old, sampler, mask)
    assert bool(((result >= 0) & (result <= 2.0)).all())
    impossible = (sampler == -INF) & mask
    if level == "sequence":
        impossible = impossible.any(dim=1, keepdim=True) & mask
    assert (result[impossible] == (2.0 if mode == "truncate" else 0.0)).all()


def test_the_metrics_of_infinite_logprobs_are_finite(make_inputs) -> None:
    old, sampler = OLD.clone(), SAMPLER.clone()
    old[0, 0] = sampler[0, 1] = old[1, 2] = sampler[1, 2] = -INF
    inputs = make_inputs(old_logprobs=old, sampler_logprobs=sampler, mask=MASK)
    for mode in ("truncate", "mask"):
        weighing = OffPolicyCorrection(mode=mode)
        for name, numbers in weighing.advantage_weights(inputs).metrics.items():
            assert numbers[MASK].isfinite().all(), name


def test_bfloat16_is_computed_in_float32() -> None:
    old = torch.tensor([[1.0, 2**-9]], dtype=torch.bfloat16)  # their sum is not a bfloat16
    mask = torch.ones(1, 2, dtype=torch.bool)
    result = weights("sequence", "truncate", 9.0, 0.0, old, torch.zeros_like(old), mask)
    assert result[0, 0].item() == pytest.approx(math.exp(1 + 2**-9), rel=1e-6)


@pytest.mark.parametrize(
    ("level", "expected"),
    [("token", [[2.0, 1.0, 1.5], [1.0, 0, 1.0]]), ("sequence", [[2.0, 2.0, 2.0], [1.0, 0, 1.0]])],
)
def test_tokens_whose_sampler_knows_no_logprob_are_not_corrected(make_inputs, level, expected) -> None:
    sampler = SAMPLER.clone()
    sampler[0, 1] = NAN  # known in this row: 2.5 and 1.5, product 3.75
    sampler[1] = NAN
    torch.testing.assert_close(weights(level, "truncate", 2.0, sampler=sampler), torch.tensor(expected))
    inputs = make_inputs(old_logprobs=OLD, sampler_logprobs=sampler, mask=MASK)
    metrics = OffPolicyCorrection().advantage_weights(inputs).metrics
    assert metrics["off_policy/unknown"][MASK].tolist() == [0, 1, 0, 1, 1]
    assert metrics["off_policy/kl_k3"][MASK].isfinite().all()


def test_a_trainers_logprob_that_is_not_a_number_is_not_hidden() -> None:
    old = OLD.clone()
    old[0, 0] = NAN
    assert weights("token", "truncate", 2.0, old=old)[0, 0].isnan()


def test_weights_carry_no_gradient() -> None:
    old = OLD.clone().requires_grad_()
    assert not weights("token", "truncate", 2.0, old=old).requires_grad


@pytest.mark.parametrize(
    ("options", "expected", "name", "share"),
    [
        ({}, [2.0, 0.4, 1.5, 0.5, 2.0], "truncated", [1, 0, 0, 0, 1]),
        ({"mode": "mask"}, [0, 0.4, 1.5, 0.5, 0], "masked", [1, 0, 0, 0, 1]),
        ({"mode": "mask", "cap": 9.0, "floor": 0.45}, [2.5, 0, 1.5, 0.5, 3], "masked", [0, 1, 0, 0, 0]),
        ({"level": "sequence", "cap": 1.2}, [1.2] * 5, "truncated", [1] * 5),
    ],
)
def test_component_and_metrics(make_inputs, options, expected, name, share) -> None:
    inputs = make_inputs(
        old_logprobs=spoiled(OLD, MASK, NAN), sampler_logprobs=spoiled(SAMPLER, MASK, NAN), mask=MASK
    )
    component = OffPolicyCorrection(**options)
    assert isinstance(component, AdvantageWeighting)
    assert not hasattr(component, "token_losses")
    output = component.advantage_weights(inputs)
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(output.weights[MASK], expected)
    names = {"weight", "kl_k3", "unknown", name}
    assert set(output.metrics) == {f"off_policy/{one}" for one in names}
    assert output.metrics["off_policy/unknown"][MASK].tolist() == [0] * 5
    torch.testing.assert_close(output.metrics["off_policy/weight"][MASK], expected)
    assert output.metrics[f"off_policy/{name}"][MASK].tolist() == share
    # KL(sampler || trainer) by k3: w - 1 - log w
    torch.testing.assert_close(output.metrics["off_policy/kl_k3"][MASK], (RATIOS - 1 - RATIOS.log())[MASK])


@pytest.mark.parametrize(
    "wrong",
    [{"level": "group"}, {"mode": "clip"}, {"cap": 0.5}, {"cap": INF}, {"mode": "mask", "floor": 2.0}],
)
def test_options_are_bounded(wrong) -> None:
    with pytest.raises(ValidationError):
        OffPolicyCorrection(**wrong)


def test_a_floor_without_an_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"floor 0.5 has an effect with mode: mask only; remove it"):
        OffPolicyCorrection(floor=0.5)
