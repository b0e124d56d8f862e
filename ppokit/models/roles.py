"""One base model in its roles: policy, reference, value, reward and sampler.

policy     adapter `policy`; without LoRA the model itself
reference  the base with adapters off; after a pre-trained adapter, a frozen copy of that adapter;
           without LoRA a frozen copy of the model
value      adapter `value`, on the upper third of the layers, and a linear head; or a head on the
           policy's trunk
others     adapters on the same base, such as that of a fitted reward model
sampler    the base with the policy's adapter merged into copies of the targeted weights; on a base in
           4 bits, the base with the adapter on
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ppokit.data.batches import TokenBatch
from ppokit.errors import ModelError
from ppokit.kernels import attention
from ppokit.kernels.frozen_trunk import build
from ppokit.kernels.rms_norm import fuse_norms
from ppokit.models import quantization
from ppokit.models.loading import quiet
from ppokit.models.logprobs import Entropy, check_head, token_logprobs
from ppokit.models.lora import FittedHead, LoraSpec, adapter_of, attach, load_fitted
from ppokit.models.merged import MergedSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Role = Literal["policy", "reference", "value"]
ValueMode = Literal["own_adapter", "policy_trunk", "detached_trunk"]


class ModelRoles:
    """The base model with its adapters and heads.

    Args:
        model: a causal language model; it is changed in place.
        lora: None trains the whole model.
        value: how the value function is built; None for none.
        reference: whether the reference will be asked for.

    Raises:
        ModelError: LoRA finds nothing to adapt, a base in 4 bits has no LoRA, or the architecture does
            something to its logits that the chunked head would miss.
    """

    def __init__(
        self, model: PreTrainedModel, *, lora: LoraSpec | None, value: ValueMode | None, reference: bool
    ) -> None:
        self.model = model
        self.device = model.device
        self.dtype = model.dtype
        self.lora = lora
        self.value_mode = value
        self._own_attention = model.config._attn_implementation
        self._short_attention = attention.short_attention_fits(model)
        check_head(model)
        self.frozen_copy: PreTrainedModel | None = None
        self._reference_adapter: str | None = None
        self._merged: MergedSampler | None = None
        if lora is None:
            if quantization.is_4bit(model):
                raise ModelError(quantization.NO_LORA)
            if reference:
                self.frozen_copy = copy.deepcopy(model).requires_grad_(False)
        else:
            model.requires_grad_(False)
            if not quantization.is_4bit(model):
                self._merged = MergedSampler(model)
            self._add_adapters(lora, reference)
            if self._merged is not None:
                self._merged.follow(model, "policy")
                fuse_norms(self._merged.model)
        fuse_norms(model)
        if self.frozen_copy is not None:
            fuse_norms(self.frozen_copy)
        hidden = model.config.get_text_config().hidden_size
        # Zero at first: values start at 0, and the first steps move the head before the trunk.
        self.value_head = nn.Linear(hidden, 1, device=self.device, dtype=torch.float32) if value else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            if lora is not None and lora.value_adapter is not None:
                self._start_value(Path(lora.value_adapter))
        self._trainable = dict(self._named_trainable())
        # Below the value adapter, the value function is the base, and so is the reference.
        self._activate("base")
        self._lower = build(self.model, "value")
        self._on_lower = ("value",) if self._reference_adapter is not None else ("value", "reference")

    # What the roles compute

    def logprobs(
        self, batch: TokenBatch, role: Role, *, temperature: float, entropy: Entropy = "none"
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the response tokens under policy or reference.

        Returns: two tensors [b,R], float32, 0 on padding.
        """
        return self._logprobs_of(self.hidden(batch, role), batch, temperature, entropy, self._head_of(role))

    def values(self, batch: TokenBatch) -> Tensor:
        """Value of the state in which each response token was chosen. [b,R] float32, 0 on padding."""
        return self._values_of(self.hidden(batch, "value"), batch)

    def logprobs_and_values(
        self, batch: TokenBatch, *, temperature: float, entropy: Entropy = "none"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both, from one forward pass where the value head stands on the policy's trunk."""
        hidden = self.hidden(batch, "policy")
        logprobs, entropies = self._logprobs_of(hidden, batch, temperature, entropy, self._head_of("policy"))
        if self.value_mode == "own_adapter":
            return logprobs, entropies, self.values(batch)
        return logprobs, entropies, self._values_of(hidden, batch)

    def _logprobs_of(
        self, hidden: Tensor, batch: TokenBatch, temperature: float, entropy: Entropy, head: nn.Module
    ) -> tuple[Tensor, Tensor]:
        picked = hidden[batch.rows, batch.positions]
        logprobs, entropies = token_logprobs(
            picked, head, batch.targets, temperature=temperature, entropy=entropy
        )
        return batch.scatter(logprobs), batch.scatter(entropies)

    def _head_of(self, role: Role) -> nn.Module:
        """The reference of a fully trained model has a frozen head, as it has a frozen trunk."""
        owner = self.model
        if role == "reference" and self.frozen_copy is not None:
            owner = self.frozen_copy
        head: nn.Module = owner.get_output_embeddings()
        return head

    def _values_of(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        assert self.value_head is not None, "values asked for, but value is None"
        picked = hidden[batch.rows, batch.positions]
        if self.value_mode == "detached_trunk":
            picked = picked.detach()
        return batch.scatter(self.value_head(picked.float()).squeeze(-1))

    def hidden(self, batch: TokenBatch, role: str) -> Tensor:
        """[b,T,H] final hidden states.

        Args:
            role: a `Role`, `base` for the base without any adapter, or the name of an adapter that was added.
        """
        model = self.model
        if role in ("reference", "base") and self.frozen_copy is not None:
            model = self.frozen_copy
        self._activate(role)
        self._choose_attention(model, batch.input_ids.shape[1])
        lower = self._lower if role in self._on_lower else None
        states = lower.get(batch) if lower is not None and role == "value" else None
        if lower is not None and states is not None:
            output = lower.forward_from(states)
        else:
            with lower.capture(batch) if lower is not None else nullcontext():
                output = model.base_model(input_ids=batch.input_ids, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def clear_cache(self) -> None:
        """Let go of what was kept of the last step's texts."""
        if self._lower is not None:
            self._lower.clear()

    def _choose_attention(self, model: PreTrainedModel, tokens: int) -> None:
        """The quicker attention for this length."""
        if self._short_attention:
            wanted = attention.NAME if tokens <= attention.LONGEST else self._own_attention
            if model.config._attn_implementation != wanted:
                model.set_attn_implementation(wanted)

    # Adapters

    def _add_adapters(self, lora: LoraSpec, reference: bool) -> None:
        own_value = self.value_mode == "own_adapter"
        self.peft = attach(self.model, lora, reference=reference, value=own_value)
        if reference and lora.adapter is not None:
            self._reference_adapter = "reference"
        self._collect_adapters()
        if not self._adapter_params:
            raise ModelError(f"lora.target_modules: {lora.target_modules!r} adapts no module of the model.")

    def _collect_adapters(self) -> None:
        """Note the adapted modules and what of them trains."""
        self._adapted = [m for m in self.model.modules() if hasattr(m, "lora_A")]
        # Not by requires_grad: activating an adapter turns it off for the others.
        owners = ("policy", "value") if self.value_mode == "own_adapter" else ("policy",)
        self._adapter_params = {
            name: param for name, param in self.model.named_parameters() if adapter_of(name) in owners
        }
        for param in self._adapter_params.values():
            param.requires_grad_(True)

    def add_fitted(self, folder: Path, name: str, *, key: str) -> FittedHead:
        """Put the adapter of a fitted reward model on the base, frozen; its head comes back.

        Args:
            name: of the adapter; `hidden` takes it as a role.
            key: the recipe's, for errors.

        Raises:
            ModelError: it was fitted on another base.
        """
        head = load_fitted(self.peft, folder, name, key=key)
        self._adapted = [m for m in self.model.modules() if hasattr(m, "lora_A")]
        return head

    def _start_value(self, folder: Path) -> None:
        """Let the value function begin as a fitted reward model, whose score it then foretells."""
        assert self.value_head is not None, "it is being made"
        self.peft.delete_adapter("value")
        head = self.add_fitted(folder, "value", key="lora.value_adapter")
        with torch.no_grad():
            self.value_head.weight.copy_(head.weight)
            self.value_head.bias.copy_(head.bias)
        self._collect_adapters()

    def _activate(self, role: str) -> None:
        """Switch every adapted module to a role; what trains keeps requires_grad throughout."""
        if self.lora is None:
            return
        adapter: str | None = role
        if role == "value" and self.value_mode != "own_adapter":
            adapter = "policy"
        if role in ("reference", "base"):
            adapter = self._reference_adapter if role == "reference" else None
        for module in self._adapted:
            if adapter is not None and module.active_adapters != [adapter]:
                module.set_adapter(adapter)
            if module.disable_adapters != (adapter is None):
                module.enable_adapters(adapter is not None)
        for param in self._adapter_params.values():
            param.requires_grad_(True)

    # The sampler

    def sampler(self) -> PreTrainedModel:
        """A causal LM that answers as the policy does now.

        It is merged fresh from the pristine base. Without LoRA, and on a base in 4 bits, it is `model`
        itself, and the policy until another role is computed.
        """
        if self._merged is not None:
            return self._merged.merged()
        self._activate("policy")
        if self.model.config._attn_implementation != self._own_attention:
            self.model.set_attn_implementation(self._own_attention)
        return self.model

    @property
    def adapters(self) -> list[Tensor]:
        """The LoRA matrices of all roles."""
        if self.lora is None:
            return []
        return [p for m in self._adapted for n, p in m.named_parameters() if "lora_" in n]

    @property
    def merged(self) -> list[Tensor]:
        """The sampler's own copies of the adapted weights."""
        return [] if self._merged is None else list(self._merged.weights)

    # What trains, and what is kept

    def _named_trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        if self.lora is None:
            yield from self.model.named_parameters()
        else:
            yield from self._adapter_params.items()
        if self.value_head is not None:
            for name, param in self.value_head.named_parameters():
                yield f"value_head.{name}", param

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that training moves, by name."""
        return self._trainable

    def is_policy(self, name: str) -> bool:
        """Whether a trainable parameter belongs to the policy."""
        return not name.startswith("value_head.") and adapter_of(name) != "value"

    def save_policy(self, folder: Path) -> None:
        """Write the policy as `folder/policy`: a PEFT adapter, or the whole model without LoRA."""
        with quiet():
            if self.lora is None:
                self.model.save_pretrained(folder / "policy")
            else:
                # peft itself writes the adapter `policy` into a folder of that name.
                self.peft.save_pretrained(str(folder), selected_adapters=["policy"])
