"""Linear layers for few tokens at a time, as sampling gives them, on a CPU in float32.

    y = x W'   as   y' = W x'

Without a graph, up to `MOST` tokens; MKL then takes about two thirds of the time. The result lies column by
column, as the next layer's input does best, and elementwise operations leave it so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ppokit.kernels.patching import is_patched, patch, patched, unpatch

name = "linear"
MOST = 64
"""Tokens up to which it is the faster way."""


@torch.no_grad()
def install(model: Any) -> bool:
    """Let a causal LM's linear layers without a bias run as above.

    Some models need memory in rows, as to read pairs of numbers as complex ones; they stay as they are.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return False
    vocabulary = model.get_input_embeddings().weight.shape[0]
    probe = torch.arange(vocabulary // 4, vocabulary // 4 + 4, device=model.device).view(4, 1) % vocabulary
    expected = model(input_ids=probe, use_cache=False).logits.float()
    new = [m for m in model.modules() if type(m) is nn.Linear and m.bias is None and not is_patched(m)]
    for module in new:
        patch(module, _forward)
    try:
        actual = model(input_ids=probe, use_cache=False).logits.float()
        agree = bool((actual - expected).norm() <= 1e-3 * expected.norm())
    except Exception:  # whatever a model does with rows
        agree = False
    if not agree:
        for module in new:
            del module.forward
    return bool(patched(model, _forward))


def remove(model: nn.Module) -> None:
    """Give the layers their own forward back."""
    unpatch(model, _forward)


def _forward(module: Any, x: Tensor) -> Tensor:
    weight: Tensor = module.weight
    tokens = x.numel() // max(x.shape[-1], 1)
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if not plain or not 1 < tokens <= MOST or torch.is_grad_enabled():
        return nn.functional.linear(x, weight)
    columns = weight @ x.reshape(tokens, -1).T
    return columns.T.view(*x.shape[:-1], -1)
