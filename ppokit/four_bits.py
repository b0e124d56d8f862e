"""A frozen base whose linear layers are in 4 bits, by bitsandbytes.

QLoRA, Dettmers et al. 2023, arXiv:2305.14314: NF4 in blocks of 64 weights, whose scales are quantised once
more; a checkpoint that is in 4 bits already stays as it was made. Adapters, heads, embeddings and norms keep
the run's dtype, into which each layer dequantises its weights whenever it computes. The sampler runs the base
with the policy's adapter on: to merge the two would round the policy to 4 bits, or take a whole copy.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MISSING = "bitsandbytes is not installed: pip install 'ppokit[quantized]'"
NO_LORA = "lora: got none, and a base in 4 bits does not train; expected a lora section."


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in str(record.msg)


# peft imports bitsandbytes where it is installed, and without a GPU that advises everybody to install the
# package `kernels`, whose products would be quicker, but give no gradients.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_no_advice)


def installed() -> bool:
    """Whether bitsandbytes is."""
    return find_spec("bitsandbytes") is not None


def _settings_of(config: Any) -> dict[str, Any]:
    """How a checkpoint is quantised; empty if it is not. AutoConfig gives what config.json holds."""
    return getattr(config, "quantization_config", None) or {}


def is_checkpoint_in_four_bits(config: Any) -> bool:
    """Whether a checkpoint, by its configuration, is in bitsandbytes' 4 bits."""
    found = _settings_of(config)
    return found.get("quant_method") == "bitsandbytes" and bool(found.get("load_in_4bit"))


def other_quantization(config: Any) -> str | None:
    """The name of any other way in which a checkpoint is quantised; None if it is not, or in 4 bits."""
    found = _settings_of(config)
    if not found or is_checkpoint_in_four_bits(config):
        return None
    name = str(found.get("quant_method", "an unknown method"))
    return "bitsandbytes in 8 bits" if name == "bitsandbytes" else name


def quantization_config(dtype: torch.dtype) -> Any:
    """What `from_pretrained` takes under that name.

    Args:
        dtype: of everything that is not quantised.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def is_in_four_bits(model: Any) -> bool:
    """Whether a loaded model's layers are."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def prepare(model: Any, dtype: torch.dtype) -> None:
    """Let a loaded model compute in the run's dtype, whatever its checkpoint says, and give gradients.

    On CPUs with AVX512-BF16 a layer packs its weights for inference as soon as it is given something that
    asks for no gradient, and from then on passes zeros back, without a word.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype, module.compute_type_is_set = dtype, True
            module.support_avx512bf16_for_cpu = False
    for param in model.parameters():
        if not isinstance(param, Params4bit):
            param.data = param.data.to(dtype)
    model.config.dtype = dtype


def left_out(model: Any) -> tuple[int, int, str]:
    """What of a model's inner weights is not in 4 bits.

    Returns: how many weights are, how many matrix weights beside the embeddings and the output layer are not,
        and the name of the largest such matrix.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    outer = {
        id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) for p in m.parameters()
    }
    inside = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, Linear4bit))
    others = {
        name: param.numel()
        for name, param in model.named_parameters()
        if param.dim() > 1 and id(param) not in outer and not isinstance(param, Params4bit)
    }
    return inside, sum(others.values()), max(others, key=others.__getitem__, default="")


def has_head_in_four_bits(model: Any) -> bool:
    """Whether the output layer (lm_head) is quantised too."""
    from bitsandbytes.nn import Linear4bit

    return isinstance(model.get_output_embeddings(), Linear4bit)


def scale_bytes(weight: Any) -> int:
    """Bytes of a weight's block scales, which lie beside it; 0 for one that is not quantised."""
    state, total = getattr(weight, "quant_state", None), 0
    while state is not None:
        total += state.absmax.numel() * state.absmax.element_size()
        state = getattr(state, "state2", None)
    return total
