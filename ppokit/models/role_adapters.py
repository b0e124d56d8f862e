"""The adapters of all roles on one base: attached, switched between, and which of them trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ppokit.errors import ModelError
from ppokit.models.lora import FittedHead, adapter_of, attach, load_fitted

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

    def add_fitted(self, folder: Path, name: str, *, key: str) -> FittedHead:
        """Load the adapter of a fitted reward model, frozen; see `ppokit.models.lora.load_fitted`."""
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
        self.peft.save_pretrained(str(folder), selected_adapters=["policy"])
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


def _adapted(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A")]
