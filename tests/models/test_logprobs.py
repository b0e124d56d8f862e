"""The chunked head against torch.distributions.Categorical: values, gradients, chunk borders, memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributions import Categorical

from ppokit.models import logprobs as module
from ppokit.models.logprobs import Entropy, token_logprobs

H, V = 6, 11


def case(
    n: int, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, nn.Linear, Tensor]:
    """Hidden states, a head and targets; in float64, so that the oracle itself is exact."""
    generator = torch.Generator().manual_seed(n)
    head = nn.Linear(H, V, bias=bias, dtype=dtype)
    with torch.no_grad():
        for param in head.parameters():
            param.copy_(torch.randn(param.shape, generator=generator))
    hidden = torch.randn(n, H, generator=generator).to(dtype)
    return hidden.requires_grad_(), head, torch.randint(V, (n,), generator=generator)


def oracle(hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    chosen = Categorical(logits=head(hidden).double() / temperature, validate_args=False)
    return chosen.log_prob(targets), chosen.entropy()


def chunks_of(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", rows * 4 * V)


def gradients(loss: Tensor, hidden: Tensor, head: nn.Linear) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *head.parameters()]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("entropy", ["none", "value", "gradient"])
def test_values_and_gradients_are_those_of_a_categorical(
    monkeypatch: pytest.MonkeyPatch, bias: bool, temperature: float, entropy: Entropy
) -> None:
    chunks_of(monkeypatch, 4)
    hidden, head, targets = case(10, bias=bias, dtype=torch.float32)
    result, entropies = token_logprobs(hidden, head, targets, temperature=temperature, entropy=entropy)
    expected, expected_entropies = oracle(hidden, head, targets, temperature)
    assert result.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(result, expected.float(), atol=1e-5, rtol=1e-5)
    if entropy == "none":
        assert entropies.tolist() == [0.0] * 10
    else:
        torch.testing.assert_close(entropies, expected_entropies.float(), atol=1e-5, rtol=1e-5)
    assert entropies.requires_grad == (entropy == "gradient")

    weights = torch.linspace(-1, 2, 10)
    loss, wanted = (result * weights).sum(), (expected * weights).sum()
    if entropy == "gradient":
        loss = loss + (entropies * weights.flip(0)).sum()
        wanted = wanted + (expected_entropies * weights.flip(0)).sum()
    for ours, theirs in zip(gradients(loss, hidden, head), gradients(wanted, hidden, head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_heads_gradient_where_one_token_is_nearly_certain() -> None:
    """1 - p keeps its digits: the total of logits around a thousand has lost those of p."""
    head = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1000.0, 0.0], [991.0, 0.0], [0.0, 0.0]]))
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    result, _ = token_logprobs(hidden, head, torch.tensor([0]), temperature=1.0, entropy="none")
    result.sum().backward()
    rest = 1 / (1 + math.exp(9.0))  # the probability of the second token
    expected = torch.tensor([[rest, 0.0], [-rest, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(head.weight.grad, expected, atol=1e-7, rtol=1e-3)


def test_the_entropy_alone_has_its_gradient() -> None:
    hidden, head, targets = case(5, dtype=torch.float32)
    _, entropies = token_logprobs(hidden, head, targets, temperature=1.3, entropy="gradient")
    _, expected = oracle(hidden, head, targets, 1.3)
    ours, theirs = (gradients(x.sum(), hidden, head) for x in (entropies, expected))
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7, 8, 100])
def test_chunk_borders_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    hidden, head, targets = case(7, dtype=torch.float32)
    chunks_of(monkeypatch, rows)
    result, entropies = token_logprobs(hidden, head, targets, temperature=0.9, entropy="gradient")
    expected, expected_entropies = oracle(hidden, head, targets, 0.9)
    torch.testing.assert_close(result, expected.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, expected_entropies.float(), atol=1e-5, rtol=1e-5)
    ours = gradients((result + 2 * entropies).sum(), hidden, head)
    theirs = gradients((expected + 2 * expected_entropies).sum(), hidden, head)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, atol=2e-5, rtol=1e-4)


def test_no_tokens_at_all() -> None:
    hidden, head, targets = case(0, dtype=torch.float32)
    result, entropies = token_logprobs(hidden, head, targets, temperature=1.0, entropy="gradient")
    assert result.shape == entropies.shape == (0,)
    for gradient in gradients((result + entropies).sum(), hidden, head):
        assert gradient.abs().sum().item() == 0.0


def test_bf16_comes_out_as_float32_near_the_exact_numbers() -> None:
    hidden, head, targets = case(50, dtype=torch.bfloat16)
    result, entropies = token_logprobs(hidden, head, targets, temperature=0.8, entropy="gradient")
    exact_head = nn.Linear(H, V, dtype=torch.float64)
    exact_head.load_state_dict({k: v.double() for k, v in head.state_dict().items()})
    exact_hidden = hidden.detach().double().requires_grad_()
    expected, expected_entropies = oracle(exact_hidden, exact_head, targets, 0.8)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected.float(), atol=0.1, rtol=0.02)
    torch.testing.assert_close(entropies, expected_entropies.float(), atol=0.1, rtol=0.02)
    ours = gradients((result + entropies).sum(), hidden, head)
    theirs = gradients((expected + expected_entropies).sum(), exact_hidden, exact_head)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.bfloat16
        gap = (mine.double() - wanted).norm() / wanted.norm()
        assert gap.item() < 0.03


def test_a_logit_of_minus_infinity_rules_a_token_out() -> None:
    """The distribution over the other tokens is as if that token did not exist."""
    hidden, head, _ = case(4, dtype=torch.float32)
    targets = torch.tensor([0, 1, 2, 4])
    with torch.no_grad():
        head.bias[3] = -math.inf
    others = [v for v in range(V) if v != 3]
    result, entropies = token_logprobs(hidden, head, targets, temperature=0.5, entropy="gradient")
    logits = (hidden @ head.weight[others].T + head.bias[others]) / 0.5
    chosen = Categorical(logits=logits)
    positions = torch.tensor([others.index(int(t)) for t in targets])
    torch.testing.assert_close(result, chosen.log_prob(positions), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, chosen.entropy(), atol=1e-5, rtol=1e-5)
    (ours,) = torch.autograd.grad((result + entropies).sum(), hidden)
    (theirs,) = torch.autograd.grad((chosen.log_prob(positions) + chosen.entropy()).sum(), hidden)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_huge_logits_neither_overflow_nor_lose_the_target() -> None:
    hidden, head, targets = case(6, dtype=torch.float32)
    with torch.no_grad():
        head.weight.mul_(1e4)
    result, entropies = token_logprobs(hidden, head, targets, temperature=1.0, entropy="gradient")
    expected, _ = oracle(hidden, head, targets, 1.0)
    torch.testing.assert_close(result, expected.float(), rtol=1e-4, atol=1e-2)
    assert bool(entropies.isfinite().all())


@pytest.mark.parametrize("entropy", ["none", "gradient"])
def test_autograd_keeps_no_logits(monkeypatch: pytest.MonkeyPatch, entropy: Entropy) -> None:
    """Nothing larger than the hidden states and the head is saved; [N,V] would be far larger."""
    rows, vocabulary = 400, 500
    head = nn.Linear(H, vocabulary, bias=False)
    hidden = torch.randn(rows, H, requires_grad=True)
    monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 4 * vocabulary)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result, entropies = token_logprobs(
            hidden, head, torch.zeros(rows, dtype=torch.long), temperature=1.0, entropy=entropy
        )
        loss = (result + entropies).sum()
    assert sizes, "the hook must have seen something"
    assert max(sizes) <= max(hidden.numel(), head.weight.numel())
    loss.backward()
    assert hidden.grad is not None


def test_only_what_trains_gets_a_gradient() -> None:
    hidden, head, targets = case(3, dtype=torch.float32)
    head.requires_grad_(False)
    result, _ = token_logprobs(hidden, head, targets, temperature=1.0, entropy="none")
    result.sum().backward()
    assert hidden.grad is not None
    assert head.weight.grad is None
