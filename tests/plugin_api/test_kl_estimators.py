"""KL estimators: the reference numbers, their identities, and extremes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppokit.plugin.kl_estimators import kl

LOGPROBS = torch.tensor([[-1.0, -1.0, -1.0]])
REF = torch.tensor([[0.0, -15.0, -30.0]])
LOG_RATIOS = st.floats(-50, 50, width=32)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", [-1.0, 14.0, 29.0]), ("k2", [0.5, 98.0, 420.5]), ("k3", [0.7183, 13.0, 28.0])],
)
def test_reference_numbers(estimator, expected) -> None:
    got = kl(LOGPROBS, REF, estimator=estimator)
    torch.testing.assert_close(got, torch.tensor([expected]), atol=5e-5, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_equal_policies_have_no_kl(estimator) -> None:
    assert kl(LOGPROBS, LOGPROBS, estimator=estimator).abs().max().item() == 0.0


@given(log_ratio=LOG_RATIOS)
@settings(deadline=None)
def test_k2_and_k3_are_never_negative_and_k3_is_its_formula(log_ratio) -> None:
    p, q = torch.tensor([log_ratio]), torch.zeros(1)
    assert kl(p, q, estimator="k2").item() >= 0
    assert kl(p, q, estimator="k3").item() >= 0
    expected = math.expm1(-log_ratio) + log_ratio  # float64
    assert kl(p, q, estimator="k3").item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_k3_of_near_equal_policies_is_not_rounding_noise() -> None:
    near = torch.linspace(-2e-3, 2e-3, 1001)
    assert kl(near, torch.zeros_like(near), estimator="k3").min().item() >= 0


@pytest.mark.parametrize("difference", [50.0, -50.0, 500.0, -500.0])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_far_apart_policies_stay_finite(estimator, difference) -> None:
    p = torch.tensor([difference], requires_grad=True)
    got = kl(p, torch.zeros(1), estimator=estimator)
    got.sum().backward()
    assert got.isfinite().all()
    assert p.grad is not None
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("difference", [-50.0, -61.0, -500.0])
def test_a_token_that_the_policy_rules_out_is_pushed_up_however_far(difference) -> None:
    """d k3 / d log p = 1 - q/p, with q/p held at exp(60)."""
    p = torch.tensor([difference], requires_grad=True)
    kl(p, torch.zeros(1), estimator="k3").sum().backward()
    assert p.grad is not None
    assert p.grad.item() == pytest.approx(1 - math.exp(min(-difference, 60)), rel=1e-4)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator) -> None:
    """Exactly, over a whole distribution: sum of p * estimate = KL(p || q)."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    truth = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * kl(p.log(), q.log(), estimator=estimator)).sum(), truth)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_gradient(estimator) -> None:
    p = torch.tensor([[-0.5, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[-1.0, -1.5, -3.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kl(x, q, estimator=estimator), (p,))


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="'k4'; expected k1, k2 or k3"):
        kl(LOGPROBS, REF, estimator="k4")  # type: ignore[arg-type]
