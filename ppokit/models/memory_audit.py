"""Where a run's memory goes: bytes by use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppokit.data.batches import TokenBatch
from ppokit.models.checkpointing import all_kept
from ppokit.models.quantization import scale_bytes
from ppokit.models.roles import ModelRoles
from ppokit.plugin.output_head import final_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def byte_audit(
    roles: ModelRoles, optimizer_bytes: int, cache_tokens: int, update_tokens: int
) -> dict[str, int]:
    """Bytes by use: base, adapters, heads, sampler copy, optimizer, key-value cache, activations.

    Args:
        optimizer_bytes: of master weights, gradients and moments.
        cache_tokens: tokens that are in the cache at once, of all responses together.
        update_tokens: tokens of the largest micro-batch.
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
        "activations": activation_bytes(roles) * update_tokens,
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


def activation_bytes(roles: ModelRoles) -> int:
    """Bytes per token that a pass of the policy keeps for its gradient, measured on a few tokens.

    With activation checkpointing that is the layers' inputs, and one layer's inside while it is computed
    again. What a layer keeps per pair of tokens, as attention without a fused kernel does, is counted for
    these few.
    """
    kept = _kept(roles)
    with all_kept(roles.model) as layers:
        return kept + (_kept(roles) // layers if layers else 0)


def _kept(roles: ModelRoles) -> int:
    """Bytes per token that autograd saves of a pass of the policy."""
    own = {param.untyped_storage().data_ptr() for param in roles.model.parameters()}
    sizes = []
    for length in (8, 16):
        saved: dict[int, Tensor] = {}  # kept until they are counted, so that no memory is used twice

        def save(tensor: Tensor, saved: dict[int, Tensor] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        batch = TokenBatch.build([[0]], *_ones(length - 1), roles.device, packed=roles.packed)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            states = roles.hidden(batch, "policy")
        sizes.append(sum(t.untyped_storage().nbytes() for ptr, t in saved.items() if ptr not in own))
        del states
    return max(0, sizes[1] - sizes[0]) // 8


def _ones(length: int) -> tuple[Tensor, Tensor]:
    """A response of this many tokens, and its mask."""
    return torch.ones(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.bool)


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of different tensors; tied ones count once."""
    different = {id(t): t for t in tensors}.values()
    return sum(t.nbytes + scale_bytes(t) for t in different)
