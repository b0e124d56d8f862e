"""The policy as a model of its own for sampling: its adapter merged into copies of the base's weights.

    W' = W + alpha / r B A,  made anew in float32 from the pristine W each time

so that no number of updates adds up rounding, as merging and un-merging in place does. What the adapter does
not touch is the base's own memory.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ppokit.errors import ModelError
from ppokit.kernels.frozen_trunk import has_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MergedSampler:
    """A copy of a base's modules, made before adapters are attached, and merged weights once they are.

    Args:
        base: a causal LM without adapters; its weights are shared.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        # Modules are copied, weights are shared; peft then wraps the original's modules only.
        self.model: PreTrainedModel = copy.deepcopy(
            base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        )
        self._pairs: list[tuple[Any, nn.Parameter]] = []

    def follow(self, adapted: nn.Module, adapter: str) -> None:
        """Merge this adapter from now on, into weights of the sampler's own.

        Raises:
            ModelError: it stands on a module that has no single weight, as the experts of some models.
        """
        self._adapter = adapter
        plain: dict[str, Any] = dict(self.model.named_modules())
        for name, module in adapted.named_modules():
            if has_adapter(module, adapter):
                layer: Any = module
                base = layer.get_base_layer()
                if not isinstance(getattr(base, "weight", None), nn.Parameter):
                    raise ModelError(
                        f"lora.target_modules: got an adapter on {name}, a {type(base).__name__}, which has "
                        "no weight to merge it into; expected linear layers, such as those of the "
                        "attention: [q_proj, k_proj, v_proj, o_proj]."
                    )
                weight = nn.Parameter(torch.empty_like(base.weight), requires_grad=False)
                plain[name].weight = weight
                self._pairs.append((layer, weight))

    @property
    def weights(self) -> list[nn.Parameter]:
        """Its own."""
        return [weight for _, weight in self._pairs]

    @torch.no_grad()
    def merged(self) -> PreTrainedModel:
        """The model with the adapter's weights as they are now."""
        for layer, weight in self._pairs:
            base = layer.get_base_layer().weight
            weight.copy_(base.float() + layer.get_delta_weight(self._adapter).float())
        return self.model
