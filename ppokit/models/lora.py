"""LoRA adapters of several roles on one base, through peft: attached, loaded, switched, saved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ppokit.errors import ModelError, first_line
from ppokit.models.adapted_layers import keep_upper, out_of_reach
from ppokit.models.adapter_check import check_adapter, check_base, check_fitted, check_last_states
from ppokit.models.heads import FittedHead
from ppokit.models.pretrained import peft_warnings, pretrained_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ppokit.config.settings import LoraSettings


class RoleAdapters:
    """The adapters `policy`, `value` and `reference` on a model, and others that are added.

    Args:
        model: a causal LM, whose layers are wrapped in place.
        reference: whether the reference will be asked for; it has an adapter where the policy starts from
            a pre-trained one.
        own_value: whether the value function has an adapter of its own; if not, it uses the policy's.

    Raises:
        ModelError: there is nothing to adapt, or a pre-trained adapter is of another kind.
    """

    def __init__(
        self, model: PreTrainedModel, lora: LoraSettings, *, reference: bool, own_value: bool
    ) -> None:
        self.model = model
        self.own_value = own_value
        self.peft: Any = attach(model, lora, reference=reference, value=own_value)
        self.has_reference = reference and lora.adapter is not None
        self._collect()
        if not self.trainable:
            raise ModelError(f"lora.target_modules: {lora.target_modules!r} adapts no module of the model.")

    def activate(self, role: str) -> None:
        """Switch every adapted module to a role; what trains keeps requires_grad throughout.

        Args:
            role: `policy`, `value`, `reference`, `base` for no adapter, or the name of one that was added.
        """
        adapter: str | None = role
        if role == "value" and not self.own_value:
            adapter = "policy"
        if role == "base" or (role == "reference" and not self.has_reference):
            adapter = None
        for module in self._adapted:
            if adapter is not None and module.active_adapters != [adapter]:
                module.set_adapter(adapter)
            if module.disable_adapters != (adapter is None):
                module.enable_adapters(adapter is not None)
        for param in self.trainable.values():
            param.requires_grad_(True)

    def set_reference(self, adapter: str | None) -> None:
        """Let the reference be the base with the adapter in a folder, or with none."""
        if "reference" in self.peft.peft_config:
            self.peft.delete_adapter("reference")
        if adapter is not None:
            with peft_warnings(), _naming("lora"):
                self.peft.load_adapter(adapter, "reference", autocast_adapter_dtype=False)
                self.peft.eval()
        self.has_reference = adapter is not None
        self._collect()

    def add_fitted(self, folder: Path, name: str, *, key: str) -> FittedHead:
        """Load the adapter of a fitted reward model, frozen; see `load_fitted`."""
        check_last_states(self.model, key)
        head = load_fitted(self.peft, folder, name, key=key)
        self._adapted = _adapted(self.model)
        return head

    def replace_value(self, folder: Path, *, key: str) -> FittedHead:
        """Let the value adapter start as a fitted reward model's.

        Returns: that model's head.
        """
        self.peft.delete_adapter("value")
        head = self.add_fitted(folder, "value", key=key)
        self._collect()
        return head

    @property
    def matrices(self) -> list[Tensor]:
        """The LoRA matrices of all roles."""
        return [p for m in self._adapted for n, p in m.named_parameters() if "lora_" in n]

    def save_policy(self, folder: Path) -> None:
        """Write the policy's adapter into a folder."""
        state = {name: t for name, t in self.peft.state_dict().items() if adapter_of(name) == "policy"}
        # peft leaves out what has another adapter's name in its path, and some models call a layer `value`.
        others = {name: config for name, config in self.peft.peft_config.items() if name != "policy"}
        for name in others:
            del self.peft.peft_config[name]
        try:
            with peft_warnings():
                self.peft.save_pretrained(str(folder), selected_adapters=["policy"], state_dict=state)
        finally:
            self.peft.peft_config.update(others)
        own = folder / "policy"  # where peft puts an adapter of that name
        for file in own.iterdir():
            file.replace(folder / file.name)
        own.rmdir()

    def _collect(self) -> None:
        """Find the adapted modules and the parameters that train."""
        self._adapted = _adapted(self.model)
        # Not by requires_grad: activating an adapter turns it off for the others.
        owners = ("policy", "value") if self.own_value else ("policy",)
        self.trainable = {
            name: param for name, param in self.model.named_parameters() if adapter_of(name) in owners
        }
        for param in self.trainable.values():
            param.requires_grad_(True)


def attach(model: Any, lora: LoraSettings, *, reference: bool, value: bool) -> Any:
    """Wrap the model's layers, in place, with the adapters `policy`, and `value` and `reference` if wanted.

    A reference adapter is a frozen copy of a pre-trained one; without it the reference is the base. The
    value adapter stands on the upper third of the layers; below it the value function is the base, and no
    gradient is computed there. One that begins as a fitted model stands where that does. There is no dropout:
    PPO's ratio is between two passes that must not differ by chance.

    Returns: the PeftModel.

    Raises:
        ModelError: peft finds nothing to adapt, or the pre-trained adapter is of another kind.
    """
    from peft import LoraConfig, get_peft_model

    excluded = out_of_reach(model) if lora.target_modules == "all-linear" else None

    def config() -> Any:
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            target_modules=lora.target_modules,
            target_parameters=lora.target_parameters,
            exclude_modules=excluded or None,
            task_type="CAUSAL_LM",
        )

    with peft_warnings(), _naming("lora"):
        if lora.adapter is None:
            wrapped = get_peft_model(model, config(), "policy", autocast_adapter_dtype=False)
        else:
            check_adapter(lora.adapter, "lora.adapter")
            check_base(model, lora.adapter, "lora.adapter")
            wrapped = pretrained_adapter(
                model,
                lora.adapter,
                "lora.adapter",
                adapter_name="policy",
                is_trainable=True,
                autocast_adapter_dtype=False,
            )
            if reference:
                wrapped.load_adapter(lora.adapter, "reference", autocast_adapter_dtype=False)
        if value:
            try:
                wrapped.add_adapter("value", config(), autocast_adapter_dtype=False)
            except ValueError as error:
                if not wrapped.peft_config["policy"].target_parameters:
                    raise
                raise ModelError(
                    "lora: the value function's adapter must target the experts' weights of lora.adapter: "
                    f"{error} Name target_modules and target_parameters as there, or value: policy_trunk."
                ) from error
            keep_upper(model, "value")
    adapted = getattr(model.get_output_embeddings(), "lora_A", {})
    if adapted:
        key = "lora.adapter" if lora.adapter is not None and "policy" in adapted else "lora.target_modules"
        raise ModelError(
            f"{key}: an adapter on the output layer (lm_head), which stays the base's own here; expected "
            "layers below it, such as all-linear."
        )
    wrapped.eval()  # an adapter that was trained with dropout brings it along
    return wrapped


def load_fitted(wrapped: Any, folder: Path, name: str, *, key: str) -> FittedHead:
    """Load the adapter of a fitted reward model, as `ppokit reward fit` saves it, under a name of its own.

    Args:
        wrapped: the PeftModel whose base it was fitted on.
        folder: holds adapter_config.json and adapter_model.safetensors, with one linear head in it.
        name: the adapter's name in the model.
        key: the recipe's key, for errors.

    Returns: its head.

    Raises:
        ModelError: it is none, or was fitted on another base.
    """
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file

    config = check_fitted(folder, key)
    state = load_file(str(folder / "adapter_model.safetensors"))
    heads = {n: t for n, t in state.items() if "lora_" not in n}
    (weight,) = (t.float() for n, t in heads.items() if n.endswith("weight") and t.dim() == 2 and len(t) == 1)
    config.modules_to_save = None
    config.task_type = "CAUSAL_LM"
    with peft_warnings(), _naming(key):
        wrapped.add_adapter(name, config, autocast_adapter_dtype=False)
        layers = {n: t for n, t in state.items() if "lora_" in n}
        other_base = f"{key}: the adapter in {folder} was fitted on another base model than this"
        try:
            result = set_peft_model_state_dict(wrapped, layers, adapter_name=name)
        except RuntimeError as error:
            raise ModelError(f"{other_base}: {first_line(error)}") from error
    own = [param for n, param in wrapped.named_parameters() if adapter_of(n) == name]
    if result.unexpected_keys or len(own) != len(layers):
        raise ModelError(f"{other_base}: {len(layers)} of its matrices meet {len(own)} of the model's")
    for param in own:
        param.requires_grad_(False)
    wrapped.eval()  # it was fitted with dropout
    bias = next((t for n, t in heads.items() if n.endswith("bias") and t.shape == (1,)), None)
    return FittedHead(weight, weight.new_zeros(1) if bias is None else bias.float())


def adapter_of(name: str) -> str | None:
    """The adapter that a parameter belongs to: `q_proj.lora_A.policy.weight` -> `policy`."""
    match = re.search(r"\.lora_\w+\.(\w+)(?:\.|$)", name)
    return match and match[1]


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """What peft finds wrong, under the recipe's key."""
    try:
        yield
    except ValueError as error:
        raise ModelError(f"{key}: {error}") from error


def _adapted(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A")]
