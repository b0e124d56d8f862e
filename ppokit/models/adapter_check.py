"""Which pre-trained adapters compute here what they compute in peft: plain LoRA, and nothing beside it.

Others are refused by name: adapters that are more than LoRA matrices (DoRA, biases, trained tokens, whole
modules, repeated layers), and those whose loading changes the base's own weights (PiSSA, OLoRA, LoftQ,
CorDA), on which the other roles stand.
"""

from __future__ import annotations

from pathlib import Path

from ppokit.errors import ModelError
from ppokit.messages import listed
from ppokit.models.pretrained import explained

# Settings of a LoraConfig that the merged sampler and the roles follow, whatever they are.
_FOLLOWED = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
        "target_parameters",
        *("init_lora_weights", "megatron_core", "runtime_config"),
    }
)
_LEAVE_THE_BASE = (True, False, "gaussian", "orthogonal", "eva")


def check_adapter(folder: str | Path, subject: str) -> None:
    """Refuse an adapter that is not plain LoRA.

    Args:
        subject: how the error begins.

    Raises:
        ModelError: it cannot be read, or is another one; the message names what it has.
    """
    from peft import LoraConfig, PeftConfig

    with explained(f"{subject}: {folder}", expected="a folder of a PEFT adapter"):
        config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ModelError(
            f"{subject}: {folder} is an adapter of the kind {config.peft_type}; expected plain LoRA."
        )
    default = LoraConfig()
    odd = [
        f"{name} ({value!r})"
        for name, value in vars(config).items()
        if name not in _FOLLOWED and value and value != getattr(default, name, None)
    ]
    remedy = ""
    if config.init_lora_weights not in _LEAVE_THE_BASE:
        odd.append(f"init_lora_weights ({config.init_lora_weights!r}), which changes the base's own weights")
        remedy = " It becomes so by path_initial_model_for_weight_conversion of peft's save_pretrained."
    if odd:
        raise ModelError(
            f"{subject}: {folder} is an adapter with {listed(odd)}; expected plain LoRA.{remedy}"
        )
