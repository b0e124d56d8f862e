"""Every role's numbers and gradients on the card, against the same weights in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppokit.config.settings import FastPaths, Layout
from ppokit.data.batches import TokenBatch
from ppokit.kernels import varlen
from ppokit.models import quantization
from ppokit.models.roles import ModelRoles, ValueMode
from small_models import tiny_llama
from small_roles import CPU, LORA, randomize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
FLOOR = {torch.float32: 1e-5, torch.bfloat16: 0.01}
TIMES = 1.5
"""How much further from float64 than transformers' and peft's own code on the same device."""
KINDS = ("lora", "full", "4 bits")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
LAYOUTS = pytest.mark.parametrize("layout", ["padded", "packed"])


def quantized(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The model's linear layers in 4 bits, as loading a checkpoint makes them."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            own = bitsandbytes.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
            )
            own.weight = bitsandbytes.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            model.set_submodule(name, own)
    model = model.to(device)
    model.is_loaded_in_4bit = True
    quantization.prepare(model, dtype)
    return model


def roles_of(
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
    fast_paths: FastPaths = "auto",
    layout: Layout = "padded",
) -> ModelRoles:
    model = tiny_llama(**SIZES)
    model = quantized(model, device, dtype) if kind == "4 bits" else model.to(device, dtype)
    lora = None if kind == "full" else LORA
    value: ValueMode = "policy_trunk" if lora is None else "own_adapter"
    roles = ModelRoles(model, lora=lora, value=value, reference=True, fast_paths=fast_paths, layout=layout)
    trained = [(n, p) for n, p in roles.trainable.items() if lora is not None or "value_head" in n]
    randomize([param for _, param in trained])
    return roles


def is_4bit_layer(module: nn.Module) -> bool:
    """A layer of bitsandbytes itself, and not peft's around it."""
    return type(getattr(module, "weight", None)).__name__ == "Params4bit" and not hasattr(module, "lora_A")


def in_double(roles: ModelRoles, kind: str) -> ModelRoles:
    """Roles on the CPU in float64, of plain layers that have the same weights."""
    plain = roles_of("lora" if kind == "4 bits" else kind, torch.device("cpu"), torch.float32)
    exact = ModelRoles(
        tiny_llama(**SIZES).double(),
        lora=plain.lora,
        value=plain.value_mode,
        reference=True,
        fast_paths="off",
    )
    state = {}
    for prefix, module in roles.model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if is_4bit_layer(module):
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            state[f"{dot}weight"] = weight.detach().double().cpu()
        else:
            own = module.named_parameters(recurse=False)
            state |= {f"{dot}{name}": param.detach().double().cpu() for name, param in own}
    exact.model.load_state_dict(state, strict=True)
    if exact.frozen_copy is not None:
        assert roles.frozen_copy is not None
        exact.frozen_copy.load_state_dict(
            {n: t.double().cpu() for n, t in roles.frozen_copy.state_dict().items()}
        )
    assert exact.value_head is not None
    assert roles.value_head is not None
    exact.value_head.double().load_state_dict(
        {name: t.double().cpu() for name, t in roles.value_head.state_dict().items()}
    )
    return exact


def texts(device: torch.device, *, packed: bool = False) -> TokenBatch:
    """Sixteen of many lengths: over few tokens, two ways that round alike differ by a factor of two."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 24, (2, 16), generator=draw)
    prompts = [torch.randint(64, (length,), generator=draw).tolist() for length in lengths[0].tolist()]
    mask = torch.arange(24) < lengths[1][:, None]
    responses = torch.randint(64, (16, 24), generator=draw) * mask
    return TokenBatch.build(prompts, responses, mask, device, packed=packed)


def exact_numbers(roles: ModelRoles, batch: TokenBatch) -> tuple[dict[str, Tensor], Tensor]:
    """Log-probabilities under policy and reference, values: from whole logits, in float64."""
    out = {}
    for role in ("policy", "reference"):
        logits = roles._model_of(role).get_output_embeddings()(roles.hidden(batch, role))
        chosen = logits[batch.rows, batch.positions].log_softmax(dim=-1)
        out[role] = chosen.gather(-1, batch.targets[:, None]).squeeze(-1)
    assert roles.value_head is not None
    states = roles.hidden(batch, "value")[batch.rows, batch.positions]
    head = roles.value_head
    out["value"] = head(states.to(head.weight.dtype)).squeeze(-1)
    return out, out["policy"].sum() + out["value"].square().sum()


def numbers(roles: ModelRoles, batch: TokenBatch) -> tuple[dict[str, Tensor], Tensor]:
    """The same in ppokit's way."""
    out = {
        role: roles.logprobs(batch, role, temperature=1.0)[0][batch.mask] for role in ("policy", "reference")
    }  # type: ignore[arg-type]
    out["value"] = roles.values(batch)[batch.mask]
    return out, out["policy"].sum() + out["value"].square().sum()


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double().cpu() - expected).norm() / expected.norm().clamp(min=1e-9))


@DTYPES
@LAYOUTS
@pytest.mark.parametrize("kind", KINDS)
def test_roles_and_gradients(
    device: torch.device, figure: Callable[[str, Any], None], kind: str, layout: Layout, dtype: torch.dtype
) -> None:
    """With every fast path that applies; texts in one row by FlashAttention in 16 bits on a card."""
    torch.backends.cuda.matmul.allow_tf32 = False
    roles = roles_of(kind, device, dtype, layout=layout)
    assert roles.packed == (layout == "packed")
    if device.type == "cuda":
        assert varlen.is_installed(roles.model) == (roles.packed and dtype == torch.bfloat16)
    expected = with_gradients(in_double(roles, kind), texts(CPU), exact_numbers)
    plain = with_gradients(roles_of(kind, device, dtype, "off"), texts(device), exact_numbers)
    own = with_gradients(roles, texts(device, packed=roles.packed), numbers)
    for name, tensor in expected.items():
        gap, allowed = distance(own[name], tensor), TIMES * distance(plain[name], tensor) + FLOOR[dtype]
        figure(f"gap of {name}, {kind}, {layout}, {str(dtype).removeprefix('torch.')}", gap)
        assert gap < allowed, (name, gap, allowed)


def with_gradients(
    roles: ModelRoles, batch: TokenBatch, compute: Callable[[ModelRoles, TokenBatch], Any]
) -> dict[str, Tensor]:
    """What is computed, and all gradients of its loss in one row."""
    result, loss = compute(roles, batch)
    loss.backward()
    grads = [param.grad for param in roles.trainable.values()]
    assert any(grad is not None for grad in grads)
    params = roles.trainable.values()
    flat = [(torch.zeros_like(p) if p.grad is None else p.grad).double().flatten() for p in params]
    return {name: tensor.detach() for name, tensor in result.items()} | {"gradients": torch.cat(flat)}
