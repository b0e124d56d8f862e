"""fp32 master weights: small steps that bf16 loses, fp32 sums of gradients, a state that comes back whole."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from ppokit.training.optimizer import MasterWeights


def masters_of(dtype: torch.dtype, *, weight_decay: float = 0.0) -> tuple[MasterWeights, nn.Parameter]:
    param = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]).to(dtype))
    return MasterWeights({"w": param}, weight_decay=weight_decay), param


def train(master_weights: MasterWeights, param: nn.Parameter, steps: int, learning_rate: float) -> None:
    for _ in range(steps):
        master_weights.zero()
        param.float().sum().backward()
        master_weights.step(learning_rate)


def test_steps_below_bf16s_resolution_add_up() -> None:
    """With a constant gradient AdamW moves each weight by the learning rate."""
    master_weights, param = masters_of(torch.bfloat16)
    train(master_weights, param, 1, 1e-3)
    assert param.tolist() == [1.0, -2.0, 3.0]  # bf16 knows nothing between 0.996 and 1
    train(master_weights, param, 99, 1e-3)
    torch.testing.assert_close(master_weights.weights["w"], torch.tensor([0.9, -2.1, 2.9]), atol=1e-4, rtol=0)
    assert param.dtype == torch.bfloat16
    assert torch.equal(param.detach(), master_weights.weights["w"].bfloat16())


def test_a_float32_parameter_is_its_own_master() -> None:
    master_weights, param = masters_of(torch.float32)
    assert master_weights.weights["w"] is param
    train(master_weights, param, 10, 1e-3)
    torch.testing.assert_close(param.detach(), torch.tensor([0.99, -2.01, 2.99]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adamw_is_torchs(dtype: torch.dtype) -> None:
    master_weights, param = masters_of(dtype, weight_decay=0.1)
    alone = nn.Parameter(param.detach().float().clone())
    optimizer = torch.optim.AdamW([alone], lr=0.05, weight_decay=0.1)
    for factor in (1.0, -3.0, 0.5):
        master_weights.zero()
        (param.float() * factor).sum().backward()
        master_weights.step(0.05)
        alone.grad = torch.full_like(alone, factor)
        optimizer.step()
    torch.testing.assert_close(master_weights.weights["w"].detach(), alone.detach())


def test_gradients_add_up_in_fp32() -> None:
    """256 + 1 + 1 + ...: bf16 would stay at 256."""
    master_weights, param = masters_of(torch.bfloat16)
    (param * 256).sum().backward()
    for _ in range(8):
        param.sum().backward()
    assert param.grad is None  # handed over at once
    (gradient,) = master_weights.gradients()
    assert gradient.dtype == torch.float32
    assert gradient.tolist() == [264.0] * 3


def test_a_parameter_without_a_gradient_counts_as_zero_and_zero_forgets() -> None:
    first, second = (nn.Parameter(torch.ones(2, dtype=torch.bfloat16)) for _ in range(2))
    master_weights = MasterWeights({"a": first, "b": second}, weight_decay=0.0)
    first.sum().backward()
    assert [g.tolist() for g in master_weights.gradients()] == [[1.0, 1.0], [0.0, 0.0]]
    master_weights.zero()
    assert [g.tolist() for g in master_weights.gradients()] == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_is_seen(dtype: torch.dtype, bad: float) -> None:
    master_weights, param = masters_of(dtype)
    assert master_weights.finite()
    param.sum().backward()
    assert master_weights.finite()
    (param[1] * bad).sum().backward()
    assert not master_weights.finite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_comes_back_bit_by_bit(dtype: torch.dtype) -> None:
    """A run that was saved after 3 steps and taken up elsewhere ends where the other one ends."""
    whole, param = masters_of(dtype, weight_decay=0.01)
    train(whole, param, 3, 0.1)
    state = {name: tensor.clone() for name, tensor in whole.state().items()}
    assert {name.split("/")[0] for name in state} == {"weights", "step", "exp_avg", "exp_avg_sq"}
    train(whole, param, 4, 0.1)

    resumed, other = masters_of(dtype, weight_decay=0.01)
    resumed.load_state(state)
    assert torch.equal(other.detach(), state["weights/w"].to(dtype))
    train(resumed, other, 4, 0.1)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name
    assert torch.equal(param, other)


def test_the_saved_state_is_not_moved_by_what_loads_it() -> None:
    master_weights, param = masters_of(torch.float32)
    train(master_weights, param, 2, 0.1)
    state = {name: tensor.clone() for name, tensor in master_weights.state().items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    resumed, other = masters_of(torch.float32)
    resumed.load_state(state)
    train(resumed, other, 2, 0.1)
    assert all(torch.equal(before[name], state[name]) for name in state)


def test_a_state_of_another_model_is_refused() -> None:
    master_weights, _ = masters_of(torch.float32)
    with pytest.raises(KeyError, match="weights/w"):
        master_weights.load_state({})
    with pytest.raises(ValueError, match=r"shape \[2\]; expected \[3\]"):
        master_weights.load_state({"weights/w": torch.zeros(2)})
    with pytest.raises(ValueError, match="unknown weight weights/other"):
        master_weights.load_state({"weights/w": torch.zeros(3), "weights/other": torch.zeros(1)})


def test_the_hash_covers_the_chosen_masters() -> None:
    master_weights, param = masters_of(torch.bfloat16)
    expected = hashlib.sha256(b"w" + torch.tensor([1.0, -2.0, 3.0]).numpy().tobytes()).hexdigest()
    assert master_weights.hash(lambda name: True) == expected
    assert master_weights.hash(lambda name: False) == hashlib.sha256().hexdigest()
    train(master_weights, param, 1, 1e-6)  # too small for bf16, not for its master
    assert master_weights.hash(lambda name: True) != expected


@pytest.mark.parametrize(("dtype", "copies"), [(torch.float32, 3), (torch.bfloat16, 4)])
def test_bytes_by_hand(dtype: torch.dtype, copies: int) -> None:
    """Gradient and two moments, and a master where the parameter is none; 4 bytes each."""
    master_weights, _ = masters_of(dtype)
    assert master_weights.bytes == 3 * 4 * copies


def test_rollback_on_error_takes_back_steps_and_moments() -> None:
    torch.manual_seed(0)
    params = {"a": torch.nn.Parameter(torch.randn(3)), "b": torch.nn.Parameter(torch.randn(2).bfloat16())}
    master_weights = MasterWeights(params, weight_decay=0.0)

    def step() -> None:
        master_weights.zero()
        sum(param.float().square().sum() for param in params.values()).backward()  # type: ignore[union-attr]
        master_weights.gradients()
        master_weights.step(0.1)

    def broken() -> None:
        step()
        raise ValueError("broken off")

    for moments in (False, True):  # before the first step there are no moments to go back to
        if moments:
            step()
        before = {key: tensor.clone() for key, tensor in master_weights.state().items()}
        copies = {name: param.detach().clone() for name, param in params.items()}
        with pytest.raises(ValueError, match="broken off"), master_weights.rollback_on_error():
            broken()
        after = master_weights.state()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
        assert all(torch.equal(params[name], copy) for name, copy in copies.items())
        assert master_weights.steps == int(moments)
