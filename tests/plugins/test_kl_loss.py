"""KL from the reference as a loss: reference numbers, and what each estimator's gradient descends on."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from pydantic import ValidationError

from loss_checks import assert_padding_is_ignored, cases
from ppokit_losses.kl import KL, kl, ppokit_losses

ESTIMATORS = ["k1", "k2", "k3", "k3_with_k2_gradient"]
LOGPROBS = torch.tensor([[-1.0, -1.0, -1.0]])
REF = torch.tensor([[0.0, -15.0, -30.0]])

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def both(new, ref, estimator):
    new = new.clone().requires_grad_()
    loss = kl(new, ref, estimator=estimator)
    loss.sum().backward()
    assert new.grad is not None
    return loss.detach(), new.grad


@pytest.mark.parametrize(
    ("estimator", "expected", "slope"),
    [
        ("k1", [-1.0, 14.0, 29.0], [1.0, 1.0, 1.0]),
        ("k2", [0.5, 98.0, 420.5], [-1.0, 14.0, 29.0]),
        ("k3", [math.e - 2, 13.0, 28.0], [1 - math.e, 1.0, 1.0]),
        ("k3_with_k2_gradient", [math.e - 2, 13.0, 28.0], [-1.0, 14.0, 29.0]),
    ],
)
def test_reference_numbers_and_slopes_by_hand(estimator, expected, slope) -> None:
    for got, wanted in zip(both(LOGPROBS, REF, estimator), (expected, slope), strict=True):
        torch.testing.assert_close(got, torch.tensor([wanted]), atol=5e-5, rtol=0)


@given(case=cases(2))
@settings(deadline=None)
def test_equals_the_definition_in_value_and_gradient(case) -> None:
    (new, ref), _ = case
    value = {"k1": [], "k2": [], "k3": []}
    slope = {"k1": [], "k2": [], "k3": []}
    for n, r in zip(new.flatten().tolist(), ref.flatten().tolist(), strict=True):
        ratio = math.exp(min(r - n, 60))
        for name, number, derivative in (
            ("k1", n - r, 1.0),
            ("k2", (n - r) ** 2 / 2, n - r),
            ("k3", ratio - 1 + n - r, 1 - ratio),
        ):
            value[name].append(number)
            slope[name].append(derivative)
    for estimator in ESTIMATORS:
        got, gradient = both(new, ref, estimator)
        expected = torch.tensor(value[estimator[:2]], dtype=torch.float64).reshape(new.shape)
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-7)
        name = "k2" if estimator == "k3_with_k2_gradient" else estimator
        expected = torch.tensor(slope[name], dtype=torch.float64).reshape(new.shape)
        torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-7)


class TestGradientOverAWholeDistribution:
    """The expectation over the policy's own tokens, exactly: the sum of p times the token's gradient."""

    logits = torch.tensor([0.3, -0.4, 1.1, 0.0], dtype=torch.float64)
    ref = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)

    def expected_gradient(self, estimator):
        logits = self.logits.clone().requires_grad_()
        log_p = logits.log_softmax(0)
        loss = kl(log_p[None], self.ref.log()[None], estimator=estimator)[0]
        return torch.autograd.grad((log_p.exp().detach() * loss).sum(), logits)[0]

    def gradient_of(self, divergence):
        logits = self.logits.clone().requires_grad_()
        return torch.autograd.grad(divergence(logits.log_softmax(0), self.ref.log()), logits)[0]

    @pytest.mark.parametrize("estimator", ["k2", "k3_with_k2_gradient"])
    def test_k2s_is_that_of_the_kl_from_the_reference(self, estimator) -> None:
        expected = self.gradient_of(lambda log_p, log_q: (log_p.exp() * (log_p - log_q)).sum())
        torch.testing.assert_close(self.expected_gradient(estimator), expected)

    def test_k2s_is_that_of_k1_in_the_reward(self) -> None:
        """A reward of -k1 per token, in the policy gradient: sum of p * k1 * grad log p."""
        logits = self.logits.clone().requires_grad_()
        log_p = logits.log_softmax(0)
        k1 = (log_p - self.ref.log()).detach()
        (expected,) = torch.autograd.grad((log_p.exp().detach() * k1 * log_p).sum(), logits)
        torch.testing.assert_close(self.expected_gradient("k2"), expected)

    def test_k3s_is_that_of_the_kl_of_the_reference_from_the_policy(self) -> None:
        expected = self.gradient_of(lambda log_p, log_q: (log_q.exp() * (log_q - log_p)).sum())
        torch.testing.assert_close(self.expected_gradient("k3"), expected)

    def test_k1s_is_nothing(self) -> None:
        torch.testing.assert_close(self.expected_gradient("k1"), torch.zeros(4, dtype=torch.float64))


@every_estimator
def test_equal_policies_have_no_loss(estimator) -> None:
    loss, slope = both(LOGPROBS, LOGPROBS, estimator)
    assert loss.abs().max().item() == 0
    assert slope.abs().max().item() == (1 if estimator == "k1" else 0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_gradcheck(estimator) -> None:
    new = torch.tensor([[-0.5, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([[-1.0, -1.5, -3.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kl(x, ref, estimator=estimator), (new,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("difference", [50.0, -50.0, 500.0, -500.0])
@every_estimator
def test_far_policies_stay_finite_and_are_pulled_back(estimator, difference, dtype) -> None:
    new = torch.tensor([[difference]], dtype=dtype)
    loss, slope = both(new, torch.zeros_like(new), estimator)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert slope.isfinite().all()
    if estimator != "k1":
        assert slope.item() * difference > 0  # descent moves towards the reference


@every_estimator
def test_bfloat16_is_computed_in_float32(estimator) -> None:
    new, ref = torch.tensor([[-3.0]], dtype=torch.bfloat16), torch.tensor([[-0.10009765625]]).bfloat16()
    upcast = kl(new.float(), ref.float(), estimator=estimator)
    assert kl(new, ref, estimator=estimator).dtype == torch.float32
    assert kl(new, ref, estimator=estimator).tolist() == upcast.tolist()


@given(case=cases(2))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    for estimator in ESTIMATORS:
        assert_padding_is_ignored(partial(kl, estimator=estimator), case)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", -1.0), ("k2", 0.5), ("k3", math.e - 2), ("k3_with_k2_gradient", math.e - 2)],
)
def test_component_and_metrics(make_inputs, estimator, expected) -> None:
    inputs = make_inputs(new_logprobs=LOGPROBS.clone().requires_grad_(), ref_logprobs=REF)
    output = KL(estimator=estimator).token_losses(inputs)
    assert output.token_losses.requires_grad
    assert output.token_losses[0, 0].item() == pytest.approx(expected)
    assert not any(metric.requires_grad for metric in output.metrics.values())
    torch.testing.assert_close(output.metrics["policy/ref_kl_k1"], torch.tensor([[-1.0, 14.0, 29.0]]))
    k3 = torch.tensor([[math.e - 2, 13.0, 28.0]])
    torch.testing.assert_close(output.metrics["policy/ref_kl_k3"], k3, atol=1e-5, rtol=0)


def test_the_default_is_that_of_grpo_and_the_reference_is_asked_for() -> None:
    assert KL().estimator == "k3"
    assert ppokit_losses()[0].needs == {"new_logprobs", "ref_logprobs"}


def test_unknown_estimators_are_named() -> None:
    with pytest.raises(ValueError, match="'k4'"):
        kl(LOGPROBS, REF, estimator="k4")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"estimator": "k4"}, {"coefficient": 0.1}])
def test_options_are_checked(wrong) -> None:
    with pytest.raises(ValidationError):
        KL(**wrong)
