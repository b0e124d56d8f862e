"""Attention over texts that stand in one row, one behind the other, on a GPU.

    softmax(scaling q k') v within each text, causally, by PyTorch's own FlashAttention

Where the rows are told by `cu_seq_lens_q`, as transformers' own FlashAttention is told; all else goes through
PyTorch's attention, as without it. Dao 2023, arXiv:2307.08691. It computes in 16 bits only.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

name = "varlen"
IMPLEMENTATION = "ppokit_varlen"
"""How transformers' registries of attention functions and masks name it."""
FLASH = "flash_attention_2"
"""transformers' own."""
_LAYERS = {"full_attention", "sliding_attention"}
_WIDEST, _MULTIPLE = 256, 8  # of a head: what FlashAttention takes


def install(model: PreTrainedModel) -> bool:
    """Let a model on a GPU attend within the texts of a row, where its architecture takes FlashAttention.

    By transformers' own where PyTorch has none for texts of any lengths. Whether the numbers are right is
    found out where rows are made, by `ppokit.models.packing`.
    """
    if is_installed(model):
        return True
    config = model.config.get_text_config()
    if (
        model.device.type != "cuda"
        or model.dtype not in (torch.bfloat16, torch.float16)
        or model.config._attn_implementation != "sdpa"
        or not getattr(model, "_supports_flash_attn", False)
        or not _LAYERS.issuperset(getattr(config, "layer_types", None) or ())
        or _head_size(config) > _WIDEST
        or _head_size(config) % _MULTIPLE
    ):
        return False
    from transformers.utils import is_flash_attn_2_available

    if _torch_has_it():
        use(model)
    elif is_flash_attn_2_available():
        model.set_attn_implementation(FLASH)
    return is_installed(model)


def is_installed(model: PreTrainedModel) -> bool:
    """Whether the model is to be told where texts end."""
    return model.config._attn_implementation in (IMPLEMENTATION, FLASH)


def remove(model: PreTrainedModel) -> None:
    """Give the model PyTorch's attention back."""
    if is_installed(model):
        model.set_attn_implementation("sdpa")


def use(model: PreTrainedModel) -> None:
    """Choose it for a model, whatever the device."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    model.set_attn_implementation(IMPLEMENTATION)


def inputs(model: PreTrainedModel, ends: Tensor, longest: int) -> dict[str, Any]:
    """What the model's forward is told of a row of texts.

    Args:
        ends: [texts + 1] int32: 0, and where each text ends.
        longest: tokens of the longest text.
    """
    lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    if model.config._attn_implementation == FLASH:
        return lengths
    # A mask of four dimensions is taken as it is: none is made of millions of pairs, and nothing waits for
    # the GPU to say whether there are several texts.
    return {**lengths, "attention_mask": ends.new_zeros(1, 1, 1, 1)}


def _head_size(config: Any) -> int:
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


def _torch_has_it() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return False
    return {"scale", "window_size"} <= set(signature(varlen_attn).parameters)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention within texts where their ends are told, else PyTorch's.

    Args:
        query: [1, heads, N, d]; key, value: [1, key heads, N, d].
        attention_mask: of no account where texts' ends are told.

    Returns: [1, N, heads, d], as transformers expects it.

    Raises:
        ValueError: the architecture caps its scores, adds sinks or biases, which this does not.
    """
    ends = options.get("cu_seq_lens_q")
    if ends is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return out
    if any(options.get(other) is not None for other in ("softcap", "s_aux", "position_bias")):
        raise ValueError("no caps, sinks or biases")
    groups = query.shape[1] // key.shape[1]
    # As [N, heads, d]; repeated for grouped queries, which not every version of torch groups itself.
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    if groups > 1:
        k, v = (states.repeat_interleave(groups, dim=1) for states in (k, v))
    window, longest = options.get("sliding_window"), options["max_length_q"]
    left = -1 if window is None else window - 1  # besides the token itself
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _within_texts(q, k, v, ends, longest, scale=scale, window_size=(left, 0)).unsqueeze(0), None


def _within_texts(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, *, scale: float, window_size: tuple[int, int]
) -> Tensor:
    """[N, heads, d] of as many."""
    from torch.nn.attention.varlen import varlen_attn

    out: Any = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=window_size)
    attended: Tensor = out
    return attended
