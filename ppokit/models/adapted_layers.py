"""Which linear layers of a model adapters stand on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ppokit.kernels.frozen_trunk import layers_of


@torch.no_grad()
def out_of_reach(model: Any) -> list[str]:
    """Names of the linear layers that all-linear means and whose adapters peft cannot let take part.

    Routers that give more than one tensor; and of state-space layers, whose weights their parents read: one
    that was not called in a forward pass, and the last one, which kernels do not call.
    """
    called: dict[str, bool] = {}  # and whether it gave one tensor
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, result, name=name: called.update({name: isinstance(result, Tensor)})
        )
        for name, module in model.named_modules()
    ]
    try:
        size = model.get_input_embeddings().weight.shape[0]
        model(input_ids=(torch.arange(4, device=model.device) % size)[None])
    finally:
        for hook in hooks:
            hook.remove()
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parent = name.rpartition(".")[0]
            passed_over = parent in called and name not in called
            mixes = hasattr(model.get_submodule(parent), "conv1d")
            if called.get(name) is False or (mixes and (passed_over or name.endswith(".out_proj"))):
                names.append(name)
    return names


def keep_upper(model: Any, adapter: str) -> None:
    """Take an adapter off the lower two thirds of the layers, unless that were all of it."""
    layers = layers_of(model)
    lower = {id(m) for layer in layers[: 2 * len(layers) // 3] for m in layer.modules()}
    adapted = [m for m in model.modules() if adapter in getattr(m, "lora_A", ())]
    if any(id(m) not in lower for m in adapted):
        for module in adapted:
            if id(module) in lower:
                module.delete_adapter(adapter)
