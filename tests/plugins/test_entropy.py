"""The entropy bonus: minimising it raises the entropy."""

from __future__ import annotations

import math

import torch

from ppokit_losses.entropy import Entropy, EntropyOptions, entropy


def test_is_minus_the_entropy() -> None:
    assert entropy(torch.tensor([[0.5, 0.0]])).tolist() == [[-0.5, 0.0]]


def test_a_step_against_the_gradient_raises_the_entropy(context, make_inputs) -> None:
    logits = torch.tensor([[[2.0, 0.0, -1.0]]], requires_grad=True)  # [1,1,V]

    def entropy_of(logits):
        return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)

    before = entropy_of(logits)
    output = Entropy(EntropyOptions(), context).token_losses(make_inputs(entropy=before))
    output.token_losses.sum().backward()
    assert logits.grad is not None
    after = entropy_of(logits.detach() - 0.1 * logits.grad)
    assert before.item() < after.item() < math.log(3)
