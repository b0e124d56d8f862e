"""Which pre-trained adapters compute here what they compute in peft: plain LoRA, and nothing beside it.

Others are refused by name: adapters that are more than LoRA matrices (DoRA, biases, trained tokens, whole
modules, repeated layers), and those whose loading changes the base's own weights (PiSSA, OLoRA, LoftQ,
CorDA), on which the other roles stand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.errors import ModelError
from ppokit.messages import listed
from ppokit.models.pretrained import adapter_weights, explained
from ppokit.plugin.output_head import final_states

if TYPE_CHECKING:
    from torch import nn

# Settings of a LoraConfig that the merged sampler and the roles follow, whatever they are.
_FOLLOWED = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
        "target_parameters",
        # How the first weights were made, which the file holds; see `_LEAVE_THE_BASE`.
        *("eva_config", "corda_config", "loftq_config", "lora_ga_config"),
        *("init_lora_weights", "megatron_core", "runtime_config"),
    }
)
_LEAVE_THE_BASE = (True, False, "gaussian", "orthogonal", "eva")


def check_adapter(folder: str | Path, subject: str, *, beside: frozenset[str] = frozenset()) -> Any:
    """Refuse an adapter that is not plain LoRA.

    Args:
        subject: how the error begins.
        beside: settings that it may have nevertheless.

    Returns: its LoraConfig.

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
        if name not in _FOLLOWED | beside and value and value != getattr(default, name, None)
    ]
    remedy = ""
    if config.init_lora_weights not in _LEAVE_THE_BASE:
        odd.append(f"init_lora_weights ({config.init_lora_weights!r}), which changes the base's own weights")
        remedy = " It becomes so by path_initial_model_for_weight_conversion of peft's save_pretrained."
    if odd:
        raise ModelError(
            f"{subject}: {folder} is an adapter with {listed(odd)}; expected plain LoRA.{remedy}"
        )
    return config


def check_fitted(folder: Path, key: str) -> Any:
    """Refuse what is no fitted reward model: plain LoRA with one linear head of one output.

    Args:
        key: the recipe's key, for errors.

    Returns: its LoraConfig.

    Raises:
        ModelError: it cannot be read, or is no such adapter.
    """
    from safetensors import safe_open

    config = check_adapter(folder, key, beside=frozenset({"modules_to_save"}))
    file, expected = (
        folder / "adapter_model.safetensors",
        "a folder that ppokit reward fit made of a causal language model",
    )
    with explained(f"{key}: {file}", expected=expected), safe_open(file, framework="np") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    heads = [
        n
        for n, shape in shapes.items()
        if n.endswith("weight") and "lora_" not in n and len(shape) == 2 and shape[0] == 1
    ]
    if len(heads) != 1:
        raise ModelError(f"{key}: {folder} is no LoRA adapter with one linear head of one output.")
    return config


def check_base(model: nn.Module, folder: str | Path, subject: str) -> None:
    """Refuse an adapter whose file has weights of the base that are not this base's.

    peft loads them over the base's own, on which the other roles stand; and a saved policy is without them.
    Files of adapters on embeddings have those of the base too, which are the same.

    Args:
        model: the base without adapters.
        subject: how the error begins.

    Raises:
        ModelError: it cannot be read, or has such weights.
    """
    import torch

    own = dict(model.named_parameters(remove_duplicate=False))

    def of_base(key: str) -> str:
        return key.removeprefix("base_model.model.").replace(".base_layer.", ".")

    with explained(f"{subject}: {folder}", expected="a folder of a PEFT adapter"):
        weights = adapter_weights(folder, lambda key: of_base(key) in own)
    for key, weight in weights.items():
        name = of_base(key)
        if not torch.equal(weight.to(own[name].dtype), own[name].detach().cpu()):
            raise ModelError(
                f"{subject}: {folder} has other weights for the base's {name}, as where tokens were added or "
                "whole layers trained beside LoRA; expected plain LoRA. Merge it into its base, and give the "
                "result as model.name."
            )


def check_last_states(model: Any, key: str) -> None:
    """That a base's last states, which a fitted model's head reads, are the output layer's too.

    Raises:
        ModelError: the model transforms or scales them between the two.
    """
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(8, device=model.device) % size)[None]
    with torch.no_grad():
        last = model.base_model(input_ids=ids, use_cache=False)[0]
        read, _ = final_states(model, input_ids=ids, use_cache=False)
    if not torch.equal(last, read):
        raise ModelError(
            f"{key}: {type(model).__name__} changes its last hidden states before the output layer, so that "
            "a reward model's head would read others than it was fitted on; load it on its own."
        )
