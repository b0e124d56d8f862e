"""Where a run's memory goes: bytes by use."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ppokit.models.quantization import scale_bytes
from ppokit.models.roles import ModelRoles


def byte_audit(roles: ModelRoles, optimizer_bytes: int, cache_tokens: int) -> dict[str, int]:
    """Bytes by use: base, adapters, heads, sampler copy, optimizer, key-value cache.

    Args:
        optimizer_bytes: of master weights, gradients and moments.
        cache_tokens: tokens that are in the cache at once, of all responses together.
    """
    config = roles.model.config.get_text_config()
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * kv_heads * head_dim * roles.dtype.itemsize
    adapters = _size(roles.adapters)
    return {
        "base": _size(roles.model.parameters()) - adapters,
        "frozen reference": _size(roles.frozen_copy.parameters()) if roles.frozen_copy is not None else 0,
        "adapters": adapters,
        "heads": _size(roles.value_head.parameters()) if roles.value_head is not None else 0,
        "merged sampler": _size(roles.merged),
        "optimizer": optimizer_bytes,
        "key-value cache": per_token * cache_tokens,
    }


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of different tensors; tied ones count once."""
    different = {id(t): t for t in tensors}.values()
    return sum(t.nbytes + scale_bytes(t) for t in different)
