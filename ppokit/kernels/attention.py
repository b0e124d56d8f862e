"""Attention for short training sequences on a CPU.

    softmax(scaling q k' + mask) v, where all rows of the batch have the same mask, as without padding

PyTorch's fused attention is made for long sequences: at a hundred tokens its backward pass is about
eight times slower on a CPU than the plain matrix products below, which are also quicker than the eager
attention of transformers, since keys are not repeated for grouped queries and nothing is computed in float32.
Longer sequences, padded ones and those with a cache go through PyTorch's, as without this kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppokit.plugin.output_head import final_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

name = "short_attention"
IMPLEMENTATION = "ppokit_short"
"""How transformers' registries of attention functions and masks name it."""
_KNOWN = {"position_ids", "cache_position", "s_aux"}
LONGEST = 256
"""Tokens up to which it is the faster one."""


@torch.no_grad()
def install(model: PreTrainedModel) -> bool:
    """Let a model on a CPU use it in place of PyTorch's, unless its results differ.

    Some architectures cap scores, add sinks or select keys; they keep theirs.
    """
    if model.config._attn_implementation == IMPLEMENTATION:
        return True
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, attention)
    AttentionMaskInterface.register(IMPLEMENTATION, short_mask)
    # Ordinary tokens: the first of a vocabulary are special ones, whose states overflow bf16's precision.
    vocabulary = model.get_input_embeddings().weight.shape[0]
    probe = torch.linspace(vocabulary // 4, vocabulary // 2, 16, device=model.device).long().unsqueeze(0)
    states = []
    try:
        for implementation in ("eager", IMPLEMENTATION):
            model.set_attn_implementation(implementation)
            states.append(final_states(model, input_ids=probe, use_cache=False)[0].float())
        expected, actual = states
        distance = (actual - expected).norm() / expected.norm().clamp(min=1e-12)
        agrees = bool(distance < (0.05 if model.dtype == torch.bfloat16 else 1e-3))
    except (TypeError, ValueError, RuntimeError):
        agrees = False
    if not agrees:
        model.set_attn_implementation("sdpa")
    return agrees


def remove(model: PreTrainedModel) -> None:
    """Give the model PyTorch's attention back."""
    if model.config._attn_implementation == IMPLEMENTATION:
        model.set_attn_implementation("sdpa")


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Short attention where `short_mask` made a mask for it, else PyTorch's.

    Raises:
        ValueError: the architecture says more than masks do of who attends to whom, as those with indexers
            of keys (DeepSeek V3.2), which put it into the masks of transformers' own attentions alone.
    """
    if more := [name for name, value in options.items() if isinstance(value, Tensor) and name not in _KNOWN]:
        raise ValueError(f"no {more[0]}")
    if attention_mask is not None and attention_mask.is_floating_point() and len(attention_mask) == 1:
        return short_attention(module, query, key, value, attention_mask, **options)
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    out: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **options
    )
    return out


def short_mask(
    batch_size: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **options: Any,
) -> Tensor | None:
    """A mask to be added, one for all rows, [1,1,T,T], for short sequences without padding.

    Args:
        options: with the number of queries, `q_length`, or, before transformers 5.4, their `cache_position`.

    Returns: for others that of PyTorch's attention, which is boolean, or None.
    """
    from transformers.masking_utils import eager_mask, sdpa_mask

    queries = options["q_length"] if "q_length" in options else len(options["cache_position"])
    if attention_mask is None and allow_is_causal_skip and queries == kv_length <= LONGEST:
        mask: Tensor | None = eager_mask(batch_size=1, kv_length=kv_length, **options)
    else:
        mask = sdpa_mask(
            batch_size=batch_size,
            kv_length=kv_length,
            attention_mask=attention_mask,
            allow_is_causal_skip=allow_is_causal_skip,
            **options,
        )
    return mask


def short_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The products.

    Args:
        query: [b, heads, T, d]; key, value: [b, key heads, T, d].
        attention_mask: [1, 1, T, T], to be added.

    Returns: [b, T, heads, d], as transformers expects it.

    Raises:
        ValueError: the architecture caps its scores or adds sinks, which this does not.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("no caps or sinks")
    b, heads, tokens, size = query.shape
    groups = heads // key.shape[1]
    flat = query.reshape(b * key.shape[1], groups * tokens, size)
    keys = key.reshape(b * key.shape[1], tokens, size)
    bias = attention_mask[0, 0].to(query.dtype).repeat(groups, 1)
    scale = size**-0.5 if scaling is None else scaling
    weights = torch.baddbmm(bias, flat, keys.transpose(1, 2), alpha=scale).softmax(dim=-1)
    out = torch.bmm(weights, value.reshape(b * key.shape[1], tokens, size))
    return out.view(b, heads, tokens, size).transpose(1, 2).contiguous(), None
