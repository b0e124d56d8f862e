"""The entropy bonus: minimising it raises the entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from pydantic import ValidationError

from loss_checks import assert_padding_is_ignored, cases
from ppokit_losses.entropy import Entropy, entropy, ppokit_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_minus_the_entropy(dtype) -> None:
    assert entropy(torch.tensor([[0.5, 0.0, 12.0]], dtype=dtype)).tolist() == [[-0.5, 0.0, -12.0]]


def test_the_gradient_is_minus_1_on_every_token() -> None:
    given_entropy = torch.tensor([[0.5, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    entropy(given_entropy).sum().backward()
    assert given_entropy.grad is not None
    assert given_entropy.grad.tolist() == [[-1.0, -1.0, -1.0]]
    assert torch.autograd.gradcheck(entropy, (given_entropy,))


def test_a_step_against_the_gradient_raises_the_entropy(make_inputs) -> None:
    logits = torch.tensor([[[2.0, 0.0, -1.0]]], requires_grad=True)  # [1,1,V]

    def entropy_of(logits):
        return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)

    before = entropy_of(logits)
    output = Entropy().token_losses(make_inputs(entropy=before))
    output.token_losses.sum().backward()
    assert logits.grad is not None
    after = entropy_of(logits.detach() - 0.1 * logits.grad)
    assert before.item() < after.item() < math.log(3)


@given(case=cases(1))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    assert_padding_is_ignored(entropy, case, atol=0, rtol=0)


def test_the_entropy_is_asked_for_and_there_are_no_options() -> None:
    assert ppokit_losses()[0].needs == {"entropy"}
    with pytest.raises(ValidationError):
        Entropy(coefficient=0.01)
