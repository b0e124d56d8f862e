"""A frozen base in 4 bits, by bitsandbytes: QLoRA, Dettmers et al. 2023, arXiv:2305.14314.

NF4 in blocks of 64 weights, whose scales are quantised once more. Adapters, heads and everything else keep
the run's dtype, in which each layer's weights are made anew whenever it computes. The sampler runs the base
with the policy's adapter on: to merge the two would round the policy to 4 bits, or take a whole copy.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# peft imports bitsandbytes where it is installed; without a GPU, that tells everybody of a package that would
# be quicker, but gives no gradients.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

MISSING = "weights in 4 bits need pip install 'ppokit[quantized]'"


def installed() -> bool:
    """Whether bitsandbytes is."""
    return find_spec("bitsandbytes") is not None


def method(config: Any) -> str | None:
    """How a checkpoint is quantised, by its configuration: None if it is not, `4 bits` as above."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    about: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    name = str(about.get("quant_method") or "an unknown method")
    in_four = about.get("load_in_4bit") or about.get("_load_in_4bit")
    return "4 bits" if name == "bitsandbytes" and in_four else name


def quantization(dtype: torch.dtype) -> Any:
    """What `from_pretrained` takes as `quantization_config`.

    Args:
        dtype: of everything that is not quantised, and of all products.
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


def make_trainable(model: Any, dtype: torch.dtype) -> None:
    """Let the layers compute in the run's dtype, and pass gradients through.

    On CPUs with AVX512-BF16 a layer packs its weights in the first pass that asks for no gradient, and
    passes zeros back from then on, without a word.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = dtype
            module.support_avx512bf16_for_cpu = False


def scale_bytes(weight: Any) -> int:
    """Bytes of a weight's block scales, which lie beside it; 0 for one that is not quantised."""
    state, total = getattr(weight, "quant_state", None), 0
    while state is not None:
        total += state.absmax.numel() * state.absmax.element_size()
        state = getattr(state, "state2", None)
    return total
