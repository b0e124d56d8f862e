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
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from ppokit.data.batches import TokenBatch
from ppokit.errors import ModelError
from ppokit.kernels import frozen_trunk, lora_linear, registry
from ppokit.models import quantization
from ppokit.models.checkpointing import checkpoint_layers
from ppokit.models.heads import FittedHead, ValueHead
from ppokit.models.logprobs import Entropy, check_head, chunk_size, token_logprobs
from ppokit.models.lora import RoleAdapters, adapter_of
from ppokit.models.merged import MergedSampler
from ppokit.models.packing import final_states_of, reads_rows
from ppokit.models.pretrained import quiet
from ppokit.plugin.output_head import logit_rule, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ppokit.config.settings import FastPaths, Layout, LoraSettings

Role = Literal["policy", "reference", "value", "base"]
ValueMode = Literal["own_adapter", "policy_trunk", "detached_trunk"]


class ModelRoles:
    """The base model with its adapters and heads.

    Args:
        model: a causal language model; it is changed in place.
        lora: None trains the whole model.
        value: how the value function is built; None for none.
        reference: whether the reference will be asked for.
        fast_paths: `off` computes by transformers' and peft's own code throughout.
        activation_checkpointing: whether layers compute their inside again for their gradient.
        layout: how the texts of a batch are to lie.

    Attributes:
        lock: held while a role is active, since rewards in threads may read with the same base.
        packed: whether batches may be, by `layout` and by what the model reads rightly.
        trainable: every parameter that training moves, by name.

    Raises:
        ModelError: LoRA finds nothing to adapt, a base in 4 bits has no LoRA, or the architecture does
            something to its logits that the chunked head would miss.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        lora: LoraSettings | None,
        value: ValueMode | None,
        reference: bool,
        fast_paths: FastPaths = "auto",
        activation_checkpointing: bool = False,
        layout: Layout = "padded",
    ) -> None:
        check_head(model)
        self._rule = logit_rule(model)
        self.model = model
        self.lock = threading.RLock()
        self.device = model.device
        self.dtype = model.dtype
        self.lora = lora
        self.value_mode = value
        self.fast_paths = fast_paths
        self.frozen_copy: PreTrainedModel | None = None
        self._adapters: RoleAdapters | None = None
        self._merged: MergedSampler | None = None
        if lora is None:
            if quantization.is_4bit(model):
                raise ModelError(quantization.NO_LORA)
            if reference:
                self.frozen_copy = copy.deepcopy(model).requires_grad_(False)
        else:
            self._attach(lora, reference)
        self.value_head = ValueHead(model, detached=value == "detached_trunk") if value else None
        adapters = self._adapters
        fitted = None if lora is None else lora.value_adapter
        if adapters is not None and fitted is not None and self.value_head is not None:
            self.value_head.start_as(adapters.replace_value(Path(fitted), key="lora.value_adapter"))
        self.trainable = dict(model.named_parameters()) if adapters is None else dict(adapters.trainable)
        if self.value_head is not None:
            self.trainable |= {f"value_head.{n}": param for n, param in self.value_head.named_parameters()}
        self._activate("base")
        models = [model, *([] if self.frozen_copy is None else [self.frozen_copy])]
        if fast_paths == "auto":
            for each in models:
                registry.install(each, registry.TRAINING)
        self.packed = reads_rows(models, layout, fast_paths)
        if activation_checkpointing:
            checkpoint_layers(model, lambda: partial(self._as, self._role))
        # Below the value adapter, the value function is the base, and so is the reference.
        with_adapter = self._adapters is not None and self._adapters.has_reference
        self._on_trunk = ("value",) if with_adapter else ("value", "reference")

    def _attach(self, lora: LoraSettings, reference: bool) -> None:
        self.model.requires_grad_(False)
        if not quantization.is_4bit(self.model):
            self._merged = MergedSampler(self.model)
            if self.fast_paths == "auto":  # while the weights are the base's: a probe needs some
                registry.install(self._merged.model, registry.SAMPLING)
        own_value = self.value_mode == "own_adapter"
        self._adapters = RoleAdapters(self.model, lora, reference=reference, own_value=own_value)
        if self._merged is not None:
            key = "lora.adapter" if lora.adapter is not None else "lora.target_modules"
            self._merged.follow(self.model, "policy", key=key)

    # What the roles compute

    def logprobs(
        self,
        batch: TokenBatch,
        role: Role,
        *,
        temperature: float,
        entropy: Entropy = "none",
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the response tokens under policy, reference or base.

        Returns: two tensors [b,R], float32, 0 on padding.
        """
        return self._logprobs_of(self.hidden(batch, role), batch, role, temperature, entropy)

    def logits(self, batch: TokenBatch, role: Role) -> Iterator[tuple[slice, Tensor]]:
        """Chunk by chunk: which of the batch's tokens, and the logits that predict them.

        Returns: of each chunk the slice of [N] and its logits, [n,V] float32, by no temperature.
        """
        selected = self.hidden(batch, role)[batch.rows, batch.positions]
        head = output_head(self._model_of(role))
        size = chunk_size(selected, head.weight)
        for start in range(0, len(selected), size):
            part = slice(start, start + size)
            yield part, self._rule(head(selected[part]))

    @property
    def has_reference(self) -> bool:
        """Whether the reference can be asked for."""
        if self.lora is None or self._adapters is None:
            return self.frozen_copy is not None
        return self.lora.adapter is None or self._adapters.has_reference

    def set_reference(self, adapter: str | None) -> None:
        """Let the reference be the base with another adapter, or with none."""
        assert self._adapters is not None, "without lora there are no adapters"
        self._adapters.set_reference(adapter)

    def values(self, batch: TokenBatch) -> Tensor:
        """Value of the state in which each response token was chosen. [b,R] float32, 0 on padding."""
        assert self.value_head is not None, "no value function was built"
        return self.value_head.values(self.hidden(batch, "value"), batch)

    def logprobs_and_values(
        self, batch: TokenBatch, *, temperature: float, entropy: Entropy = "none"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both, from one forward pass where the value head stands on the policy's trunk."""
        hidden = self.hidden(batch, "policy")
        logprobs, entropies = self._logprobs_of(hidden, batch, "policy", temperature, entropy)
        if self.value_head is None or self.value_mode == "own_adapter":
            return logprobs, entropies, self.values(batch)
        return logprobs, entropies, self.value_head.values(hidden, batch)

    def _logprobs_of(
        self, hidden: Tensor, batch: TokenBatch, role: Role, temperature: float, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies = token_logprobs(
            hidden[batch.rows, batch.positions],
            output_head(self._model_of(role)),
            batch.targets,
            temperature=temperature,
            entropy=entropy,
            rule=self._rule,
        )
        return batch.scatter(logprobs), batch.scatter(entropies)

    def _model_of(self, role: str) -> PreTrainedModel:
        """A fully trained model's reference, or base, is a frozen copy of it, head and all."""
        if role in ("reference", "base") and self.frozen_copy is not None:
            return self.frozen_copy
        return self.model

    def hidden(self, batch: TokenBatch, role: str) -> Tensor:
        """[b,T,H] final hidden states, [1,N,H] of a packed batch.

        Args:
            role: a `Role`, whose `base` has no adapter, or the name of an adapter that was added.
        """
        with self.lock:
            self._activate(role)
            cache = frozen_trunk.cache_of(self.model) if role in self._on_trunk else None
            states = cache.get(batch) if cache is not None and role == "value" else None
            if cache is not None and states is not None:
                return cache.forward_from(states, lambda: final_states_of(self.model, batch))
            with cache.capture(batch) if cache is not None else nullcontext():
                return final_states_of(self._model_of(role), batch)

    def clear_cache(self) -> None:
        """Forget the hidden states of the last step's texts."""
        if (cache := frozen_trunk.cache_of(self.model)) is not None:
            cache.clear()

    def add_fitted(self, folder: Path, name: str, *, key: str) -> FittedHead:
        """Put the adapter of a fitted reward model on the base, frozen.

        Args:
            name: of the adapter; `hidden` takes it as a role.
            key: the recipe's, for errors.

        Returns: that model's head.

        Raises:
            ModelError: it was fitted on another base, or its head would read other states.
        """
        assert self._adapters is not None, "without lora there are no adapters"
        head = self._adapters.add_fitted(folder, name, key=key)
        if self.fast_paths == "auto":
            lora_linear.install(self.model)
        return head

    def _activate(self, role: str) -> None:
        self._role = role
        if self._adapters is not None:
            self._adapters.activate(role)

    @contextmanager
    def _as(self, role: str) -> Iterator[None]:
        """A role for a while, in a backward pass too."""
        before = self._role
        if role != before:
            self._activate(role)
        try:
            yield
        finally:
            if role != before:
                self._activate(before)

    # The sampler

    def sampling(self) -> AbstractContextManager[object]:
        """While responses are sampled: where the sampler is `model` itself, no other role is read with."""
        return self.lock if self._merged is None else nullcontext()

    def sampler(self) -> PreTrainedModel:
        """A causal LM that answers as the policy does now.

        It is merged fresh from the pristine base. Without LoRA, and on a base in 4 bits, it is `model`
        itself, and the policy until another role is computed.
        """
        if self._merged is not None:
            return self._merged.merged()
        self._activate("policy")
        return self.model

    @property
    def adapters(self) -> list[Tensor]:
        """The LoRA matrices of all roles."""
        return [] if self._adapters is None else self._adapters.matrices

    @property
    def merged(self) -> Sequence[Tensor]:
        """The sampler's own copies of the adapted weights."""
        return [] if self._merged is None else self._merged.weights

    # What trains, and what is saved

    def is_policy(self, name: str) -> bool:
        """Whether a trainable parameter belongs to the policy."""
        return not name.startswith("value_head.") and adapter_of(name) != "value"

    def save_policy(self, folder: Path) -> None:
        """Write the policy into a folder: a PEFT adapter, or the whole model without LoRA."""
        with quiet():
            if self._adapters is None:
                self.model.save_pretrained(folder)
            else:
                self._adapters.save_policy(folder)
