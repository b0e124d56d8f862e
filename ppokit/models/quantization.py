"""A frozen base whose linear layers are in 4 bits, by bitsandbytes.

QLoRA, Dettmers et al. 2023, arXiv:2305.14314: NF4 in blocks of 64 weights, whose scales are quantised once
more; a checkpoint that is in 4 bits already stays as it is. Adapters, heads, embeddings and norms keep
the run's dtype, into which each layer dequantises its weights whenever it computes. The sampler runs the base
with the policy's adapter on: to merge the two would round the policy to 4 bits, or take a whole copy.
"""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ppokit.errors import ModelError, PpokitWarning, first_line

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


def is_4bit_checkpoint(config: Any) -> bool:
    """Whether a checkpoint, by its configuration, is in bitsandbytes' 4 bits."""
    settings = _settings_of(config)
    return settings.get("quant_method") == "bitsandbytes" and bool(settings.get("load_in_4bit"))


def check_checkpoint(config: Any, name: str) -> None:
    """That a checkpoint, by its configuration, can be a base.

    Raises:
        ModelError: it is quantised in another way, or in 4 bits and bitsandbytes is missing.
    """
    settings = _settings_of(config)
    if settings and not is_4bit_checkpoint(config):
        method = str(settings.get("quant_method", "an unknown method"))
        if method == "bitsandbytes":
            method = "bitsandbytes in 8 bits"
        raise ModelError(
            f"model.name: {name} is quantised by {method}; expected a checkpoint that is not quantised, "
            "which model.load_in_4bit keeps in 4 bits, or one in bitsandbytes' 4 bits."
        )
    if settings and not installed():
        raise ModelError(f"model.name: {name} is in 4 bits, but {MISSING}.")


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


def is_4bit(model: Any) -> bool:
    """Whether a loaded model's layers are."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def prepare(model: Any, dtype: torch.dtype) -> None:
    """Let a loaded model compute in the run's dtype, whatever its checkpoint says, and give gradients.

    On CPUs with AVX512-BF16 a layer packs its weights for inference as soon as it is given something that
    asks for no gradient, and from then on passes zeros back, silently.
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


def check_loaded(model: Any, name: str) -> None:
    """That a loaded model has in 4 bits what it should; tells of inner weights that are not.

    Raises:
        ModelError: its output layer is, or nothing is.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(head, Linear4bit):
        raise ModelError(
            f"model.name: the output layer (lm_head) of {name} is in 4 bits too; expected it as it was "
            "trained. Name the checkpoint that this was made of, with model.load_in_4bit: true."
        )
    inside = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, Linear4bit))
    if not inside:
        raise ModelError(
            f"model.load_in_4bit: {name} ({type(model).__name__}) has no layers that bitsandbytes keeps in 4 "
            "bits, so nothing would be saved; leave the key out."
        )
    outer = {id(param) for module in (embeddings, head) for param in module.parameters()}
    others = {
        param_name: param.numel()
        for param_name, param in model.named_parameters()
        if param.dim() > 1 and id(param) not in outer and not isinstance(param, Params4bit)
    }
    outside = sum(others.values())
    if outside > inside / 4:
        largest = max(others, key=others.__getitem__)
        warnings.warn(
            f"model.load_in_4bit: {outside / (inside + outside):.0%} of the inner weights of {name} are not "
            f"in linear layers and keep their dtype, the largest of them {largest}",
            PpokitWarning,
            stacklevel=3,
        )


def check_forward(model: Any, name: str) -> None:
    """That the model's own code computes through its layers, and not with their weights, which are packed.

    Raises:
        ModelError: it does the latter, as that of Mamba does.
    """
    import torch

    try:
        with torch.no_grad():
            model(input_ids=torch.arange(4, device=model.device)[None], use_cache=False)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            f"model.load_in_4bit: {name} ({type(model).__name__}) does not compute in 4 bits: "
            f"{first_line(error)} Leave the key out."
        ) from error


def scale_bytes(weight: Any) -> int:
    """Bytes of a weight's block scales, which are stored with it; 0 for one that is not quantised."""
    state, total = getattr(weight, "quant_state", None), 0
    while state is not None:
        total += state.absmax.nbytes
        state = getattr(state, "state2", None)
    return total
