"""Attention for short training sequences on a CPU.

PyTorch's fused attention is made for long sequences: at a hundred tokens its backward pass is about
eight times slower on a CPU than the plain matrix products below, which are also quicker than the eager
attention of transformers, since keys are not repeated for grouped queries and nothing is held in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "ppokit_short"
LONGEST = 256
"""Tokens up to which it is the faster one."""


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
    """softmax(scaling q k' + mask) v, where all rows of the batch have the same mask, as without padding.

    Args:
        query: [b, heads, T, d]; key, value: [b, key heads, T, d].
        attention_mask: [b or 1, 1, T, T], to be added.

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


@torch.no_grad()
def short_attention_fits(model: PreTrainedModel) -> bool:
    """Whether it may stand in for the model's own attention: on a CPU, and with the same results.

    Some architectures cap scores or add sinks; they keep theirs.
    """
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, short_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    # Ordinary tokens: the first of a vocabulary are special ones, whose states overflow bf16's precision.
    vocabulary = model.get_input_embeddings().weight.shape[0]
    probe = torch.linspace(vocabulary // 4, vocabulary // 2, 16, device=model.device).long().unsqueeze(0)
    states = []
    try:
        for name in ("eager", NAME):
            model.set_attn_implementation(name)
            states.append(model.base_model(input_ids=probe, use_cache=False).last_hidden_state.float())
    except (TypeError, ValueError, RuntimeError):
        return False
    finally:
        model.set_attn_implementation("sdpa")
    expected, came = states
    gap = (came - expected).norm() / expected.norm().clamp(min=1e-12)
    return bool(gap < (0.05 if model.dtype == torch.bfloat16 else 1e-3))
