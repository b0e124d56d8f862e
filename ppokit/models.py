"""One base model in four roles: policy, reference, value and (merged) sampler.

policy     adapter `policy`; without LoRA the model itself
reference  the base with adapters off; after a pre-trained adapter, a frozen copy of that adapter;
           without LoRA a frozen copy of the model
value      adapter `value` and a linear head, or a head on the policy's trunk
sampler    the base with the policy's adapter merged into copies of the targeted weights
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ppokit.batches import TokenBatch
from ppokit.errors import ModelError
from ppokit.loading import quiet
from ppokit.logprobs import Entropy, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST_EAGER = 256
"""Tokens up to which plain attention is used on a CPU."""

Role = Literal["policy", "reference", "value"]
ValueMode = Literal["own_adapter", "policy_trunk", "detached_trunk"]


@dataclass(frozen=True)
class LoraSpec:
    """LoRA adapters: Hu et al. 2021, arXiv:2106.09685.

    Attributes:
        r, alpha: rank and scale; the update is `alpha / r * B A`.
        target_modules: what peft's `target_modules` takes.
        adapter: folder of a pre-trained adapter that the policy goes on from; None starts at zero.
    """

    r: int
    alpha: float
    target_modules: str | list[str]
    adapter: str | None = None


class ModelRoles:
    """The base model with its adapters and heads.

    Args:
        model: a causal language model; it is changed in place.
        lora: None trains the whole model.
        value: how the value function is built; None for none.
        reference: whether the reference will be asked for.

    Raises:
        ModelError: LoRA finds nothing to adapt, or the architecture does something to its logits
            that the chunked head would miss.
    """

    def __init__(
        self, model: PreTrainedModel, *, lora: LoraSpec | None, value: ValueMode | None, reference: bool
    ) -> None:
        self.model = model
        self.device = model.device
        self.dtype = model.dtype
        self.lora = lora
        self.value_mode = value
        self.head = model.get_output_embeddings()
        self._own_attention = model.config._attn_implementation
        _check_head(model, self.head)
        self._frozen_copy: PreTrainedModel | None = None
        self._reference_adapter: str | None = None
        if lora is None:
            if reference:
                self._frozen_copy = copy.deepcopy(model).requires_grad_(False)
            self._sampler = model
        else:
            model.requires_grad_(False)
            # Modules are copied, weights are shared; peft then wraps the original's modules only.
            self._sampler = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
            self._add_adapters(lora, reference)
        hidden = model.config.get_text_config().hidden_size
        # Zero at first: values start at 0, and the first steps move the head before the trunk.
        self.value_head = nn.Linear(hidden, 1, device=self.device, dtype=torch.float32) if value else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self._trainable = dict(self._named_trainable())

    # What the roles compute

    def logprobs(
        self, batch: TokenBatch, role: Role, *, temperature: float, entropy: Entropy = "none"
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the response tokens under policy or reference.

        Returns: two tensors [b,R], float32, 0 on padding.
        """
        return self._logprobs_of(self._hidden(batch, role), batch, temperature, entropy)

    def values(self, batch: TokenBatch) -> Tensor:
        """Value of the state in which each response token was chosen. [b,R] float32, 0 on padding."""
        return self._values_of(self._hidden(batch, "value"), batch)

    def logprobs_and_values(
        self, batch: TokenBatch, *, temperature: float, entropy: Entropy = "none"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both, from one forward pass where the value head stands on the policy's trunk."""
        hidden = self._hidden(batch, "policy")
        logprobs, entropies = self._logprobs_of(hidden, batch, temperature, entropy)
        if self.value_mode == "own_adapter":
            return logprobs, entropies, self.values(batch)
        return logprobs, entropies, self._values_of(hidden, batch)

    def _logprobs_of(
        self, hidden: Tensor, batch: TokenBatch, temperature: float, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        picked = hidden[batch.rows, batch.positions]
        logprobs, entropies = token_logprobs(
            picked, self.head, batch.targets, temperature=temperature, entropy=entropy
        )
        return batch.scatter(logprobs), batch.scatter(entropies)

    def _values_of(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        assert self.value_head is not None, "values asked for, but value is None"
        picked = hidden[batch.rows, batch.positions]
        if self.value_mode == "detached_trunk":
            picked = picked.detach()
        return batch.scatter(self.value_head(picked.float()).squeeze(-1))

    def _hidden(self, batch: TokenBatch, role: Role) -> Tensor:
        """[b,T,H] final hidden states."""
        model = self.model
        if role == "reference" and self._frozen_copy is not None:
            model = self._frozen_copy
        self._activate(role)
        self._choose_attention(model, batch.input_ids.shape[1])
        output = model.base_model(input_ids=batch.input_ids, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _choose_attention(self, model: PreTrainedModel, tokens: int) -> None:
        """On a CPU, PyTorch's fused attention is about four times slower than plain matmuls for short
        sequences in the backward pass (T = 100), and faster for long ones (T = 512)."""
        if self.device.type != "cpu" or self._own_attention not in ("sdpa", "eager"):
            return
        wanted = "eager" if tokens <= LONGEST_EAGER else "sdpa"
        if model.config._attn_implementation != wanted:
            model.set_attn_implementation(wanted)

    # Adapters

    def _add_adapters(self, lora: LoraSpec, reference: bool) -> None:
        from peft import LoraConfig, PeftModel, get_peft_model

        def config() -> Any:
            return LoraConfig(
                r=lora.r, lora_alpha=lora.alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM"
            )

        own_value = self.value_mode == "own_adapter"
        with warnings.catch_warnings(), _named("lora"):
            # peft 0.21 asks transformers 5 for a property by its old name.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            if lora.adapter is None:
                self.peft = get_peft_model(self.model, config(), "policy", autocast_adapter_dtype=False)
            else:
                self.peft = PeftModel.from_pretrained(
                    self.model, lora.adapter, "policy", is_trainable=True, autocast_adapter_dtype=False
                )
                if reference:
                    self._reference_adapter = "reference"
                    self.peft.load_adapter(lora.adapter, "reference", autocast_adapter_dtype=False)
            if own_value:
                self.peft.add_adapter("value", config(), autocast_adapter_dtype=False)
        self._adapted = [m for m in self.model.modules() if hasattr(m, "lora_A")]
        for module in self._adapted:
            _fuse(module)
        # Not by requires_grad: activating an adapter turns it off for the others.
        owners = ("policy", "value") if own_value else ("policy",)
        self._adapter_params = {
            name: param for name, param in self.model.named_parameters() if _adapter_of(name) in owners
        }
        if not self._adapter_params:
            raise ModelError(f"lora.target_modules: {lora.target_modules!r} adapts no module of the model.")
        for param in self._adapter_params.values():
            param.requires_grad_(True)
        self._merged_weights()

    def _activate(self, role: Role) -> None:
        """Switch every adapted module to a role; what trains keeps requires_grad throughout."""
        if self.lora is None:
            return
        adapter: str | None = role
        if role == "value" and self.value_mode != "own_adapter":
            adapter = "policy"
        if role == "reference":
            adapter = self._reference_adapter
        for module in self._adapted:
            if adapter is not None and module.active_adapters != [adapter]:
                module.set_adapter(adapter)
            if module.disable_adapters != (adapter is None):
                module.enable_adapters(adapter is not None)
        for param in self._adapter_params.values():
            param.requires_grad_(True)

    # The sampler

    def _merged_weights(self) -> None:
        """Give the sampler weights of its own for the adapted modules."""
        plain = dict(self._sampler.named_modules())
        self._pairs = []
        for name, module in self.model.named_modules():
            if hasattr(module, "lora_A"):
                weight = nn.Parameter(torch.empty_like(module.get_base_layer().weight), requires_grad=False)
                plain[name].weight = weight
                self._pairs.append((module, weight))

    @torch.no_grad()
    def sampler(self) -> PreTrainedModel:
        """A causal LM with the policy's weights as they are now, merged fresh from the pristine base."""
        if self.lora is None:
            if self._sampler.config._attn_implementation != self._own_attention:
                self._sampler.set_attn_implementation(self._own_attention)
        else:
            for module, weight in self._pairs:
                base = module.get_base_layer().weight
                weight.copy_(base.float() + module.get_delta_weight("policy").float())
        return self._sampler

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
        return not name.startswith("value_head.") and _adapter_of(name) != "value"

    def save_policy(self, folder: Path) -> None:
        """Write the policy as `folder/policy`: a PEFT adapter, or the whole model without LoRA."""
        with quiet():
            if self.lora is None:
                self.model.save_pretrained(folder / "policy")
            else:
                # peft itself writes the adapter `policy` into a folder of that name.
                self.peft.save_pretrained(str(folder), selected_adapters=["policy"])

    def byte_audit(self, optimizer_bytes: int, cache_tokens: int) -> dict[str, int]:
        """Bytes by use: base, adapters, heads, sampler copy, optimizer, key-value cache."""

        def size(tensors: Sequence[Tensor]) -> int:
            return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())

        adapters: list[Tensor] = []
        if self.lora is not None:
            adapters = [p for m in self._adapted for n, p in m.named_parameters() if "lora_" in n]
        heads = list(self.value_head.parameters()) if self.value_head is not None else []
        config = self.model.config.get_text_config()
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        a_token = 2 * config.num_hidden_layers * kv_heads * head_dim * self.dtype.itemsize
        return {
            "base": size(list(self.model.parameters())) - size(adapters),
            "frozen reference": size(list(self._frozen_copy.parameters())) if self._frozen_copy else 0,
            "adapters": size(adapters),
            "heads": size(heads),
            "merged sampler": size([weight for _, weight in self._pairs]) if self.lora is not None else 0,
            "optimizer": optimizer_bytes,
            "key-value cache": a_token * cache_tokens,
        }


def _fuse(module: Any) -> None:
    """Run a plain LoRA layer as x W' + s (x A') B', with the sum inside the last matmul.

    The same numbers as peft's own forward, which passes three more times over the layer's output.
    """
    base = module.get_base_layer()
    if type(base) is not nn.Linear or base.bias is not None or module.lora_variant:
        return

    def forward(x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)  # in two dimensions, so that the product is no view and may be added to
        out = nn.functional.linear(flat, base.weight)
        if not module.disable_adapters:
            (name,) = module.active_adapters
            low = module.lora_A[name](flat)
            out = out.addmm_(low, module.lora_B[name].weight.T, alpha=module.scaling[name])
        return out.view(*x.shape[:-1], -1)

    module.forward = forward


@contextmanager
def _named(key: str) -> Iterator[None]:
    """What peft finds wrong, under the recipe's key."""
    try:
        yield
    except ValueError as error:
        raise ModelError(f"{key}: {error}") from error


def _adapter_of(name: str) -> str | None:
    """The adapter that a parameter belongs to: `q_proj.lora_A.policy.weight` -> `policy`."""
    found = re.search(r"\.lora_\w+\.(\w+)(?:\.|$)", name)
    return found and found[1]


@torch.no_grad()
def _check_head(model: PreTrainedModel, head: nn.Module | None) -> None:
    """Some architectures scale or cap their logits after the head; the chunked head would not."""
    probe = torch.arange(4, device=model.device).unsqueeze(0)
    if head is not None:
        hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        if torch.allclose(head(hidden).float(), model(input_ids=probe).logits.float(), atol=1e-3, rtol=1e-3):
            return
    raise ModelError(
        f"model.name: {type(model).__name__} changes its logits after the language-model head (by scaling "
        "or capping), which is not supported; choose a model whose logits are the head's output."
    )
