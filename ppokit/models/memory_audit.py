"""Where a run's memory goes: bytes by use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppokit.models.quantization import scale_bytes
from ppokit.models.roles import ModelRoles
from ppokit.plugin.output_head import final_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def byte_audit(roles: ModelRoles, optimizer_bytes: int, cache_tokens: int) -> dict[str, int]:
    """Bytes by use: base, adapters, heads, sampler copy, optimizer, key-value cache.

    Args:
        optimizer_bytes: of master weights, gradients and moments.
        cache_tokens: tokens that are in the cache at once, of all responses together.
    """
    adapters = _size(roles.adapters)
    return {
        "base": _size(roles.model.parameters()) - adapters,
        "frozen reference": _size(roles.frozen_copy.parameters()) if roles.frozen_copy is not None else 0,
        "adapters": adapters,
        "heads": _size(roles.value_head.parameters()) if roles.value_head is not None else 0,
        "merged sampler": _size(roles.merged),
        "optimizer": optimizer_bytes,
        "key-value cache": cache_bytes(roles.model) * cache_tokens,
    }


@torch.no_grad()
def cache_bytes(model: PreTrainedModel) -> int:
    """Bytes of a token in the model's cache, measured: layers differ in heads, and some keep no keys.

    What a state-space layer keeps of a text, however long, is not counted; 0 where the model has no cache.
    """
    sizes = []
    for length in (8, 16):
        ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
        _, output = final_states(model, input_ids=ids, use_cache=True)
        # By its name since transformers 5.24, or the one before.
        caches = (getattr(output, name, None) for name in ("cache", "past_key_values") if name in output)
        layers = getattr(next(caches, None), "layers", [])
        tensors = (value for layer in layers for value in vars(layer).values() if isinstance(value, Tensor))
        sizes.append(sum(tensor.nbytes for tensor in tensors))
    return max(0, sizes[1] - sizes[0]) // 8


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of different tensors; tied ones count once."""
    different = {id(t): t for t in tensors}.values()
    return sum(t.nbytes + scale_bytes(t) for t in different)
