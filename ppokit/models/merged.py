"""The policy as a model of its own for sampling: its adapter merged into copies of the base's weights.

    W' = W + alpha / r B A,  made anew in float32 from the pristine W each time

so that no number of updates adds up rounding, as merging and un-merging in place does; then rounded so that a
small change is not lost, see `rounding`. What the adapter does not touch is the base's own memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppokit.errors import ModelError, first_line
from ppokit.kernels.frozen_trunk import has_adapter
from ppokit.models.rounding import rounded
from ppokit.plugin.output_head import final_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = {torch.float32: 1e-3}  # of a result's norm; of other dtypes:
_ROUNDED = 0.05
_EXPECTED = (
    "expected plain LoRA, as on linear layers of the attention: "
    "target_modules: [q_proj, k_proj, v_proj, o_proj]."
)


@dataclass(frozen=True)
class _Merge:
    """One adapted weight.

    Attributes:
        name: of its module in the sampler.
        layer: peft's layer, which knows the base's weight and the adapter.
        parameter: the weight's name in the module: `weight`, or that of experts' weights.
        own: the sampler's.
    """

    name: str
    layer: Any
    parameter: str
    own: nn.Parameter


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
        self._merges: list[_Merge] = []
        self._unchecked: Callable[[], None] | None = None

    def follow(self, adapted: nn.Module, adapter: str, *, key: str) -> None:
        """Merge this adapter from now on, into weights of the sampler's own.

        Args:
            adapted: the base with adapters attached, as an ordinary model.
            key: the recipe's, for errors.
        """
        self._adapter = adapter
        self._unchecked = partial(self._check, adapted, key)
        for name, module in adapted.named_modules():
            if has_adapter(module, adapter):
                layer: Any = module
                # peft wraps a module once more for each parameter of its own that is adapted.
                plain = self.model.get_submodule(name.replace(".base_layer", ""))
                parameter = getattr(layer, "parameter_name", "weight")
                own = nn.Parameter(torch.empty_like(getattr(plain, parameter)), requires_grad=False)
                setattr(plain, parameter, own)
                self._merges.append(_Merge(name.replace(".base_layer", ""), layer, parameter, own))

    @property
    def weights(self) -> list[nn.Parameter]:
        """Its own."""
        return [merge.own for merge in self._merges]

    @torch.no_grad()
    def merged(self) -> PreTrainedModel:
        """The model with the adapter's weights as they are now.

        At the first call, which leaves the adapter on, it is compared with peft's own model.

        Raises:
            ModelError: one of its modules, or the whole model, computes something else once it is merged.
        """
        if self._unchecked is not None:  # only now: a run whose engine is a server never asks
            self._unchecked()
            self._unchecked = None
        return self._merge()

    def _merge(self) -> PreTrainedModel:
        for merge in self._merges:
            base = getattr(merge.layer.get_base_layer(), merge.parameter)
            weight = base.to(torch.float32, copy=True)
            weight += merge.layer.get_delta_weight(self._adapter)
            merge.own.copy_(rounded(weight, merge.own.dtype))
        return self.model

    @torch.no_grad()
    def _check(self, adapted: Any, key: str) -> None:
        """That a few tokens give the same in both: by module, with adapters that show, and as a whole."""
        for merge in self._merges:
            merge.layer.set_adapter(self._adapter)
            merge.layer.enable_adapters(True)
        merged = {id(param) for merge in self._merges for param in merge.layer.parameters()}
        for name, param in adapted.named_parameters():
            if self._adapter in name.split(".") and id(param) not in merged:
                raise ModelError(f"{key}: {name} of the adapter is merged into no weight; {_EXPECTED}")
        size = adapted.get_input_embeddings().weight.shape[0]
        ids = torch.linspace(size // 4, size // 2, 8, device=adapted.device).long()[None]
        with self._shown(self._merges):
            try:
                calls = _calls(adapted, {merge.name for merge in self._merges}, ids)
            except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                raise ModelError(
                    f"{key}: {type(adapted).__name__} does not run with this adapter on "
                    f"({type(error).__name__}: {first_line(error)}); {_EXPECTED}"
                ) from error
            plain = self._merge()
            for name, (inputs, options, result) in calls.items():
                result_here = plain.get_submodule(name)(*inputs, **options)
                _compare(result_here, result, f"{key}: the adapter on {name}")
        # Without what adapters have learned, whose rounding a whole model in 16 bits can turn into anything.
        with self._shown(self._merges, 0.0):
            # A module whose weight is read without a call of it does in peft as if it had no adapter.
            for merge in [merge for merge in self._merges if merge.name not in calls]:
                with self._shown([merge]):
                    self._compare_whole(adapted, ids, f"{key}: the adapter on {merge.name}")
            self._compare_whole(adapted, ids, f"{key}: the adapter")

    def _compare_whole(self, adapted: Any, ids: Tensor, subject: str) -> None:
        expected = final_states(adapted, input_ids=ids, use_cache=False)[0]
        _compare(final_states(self._merge(), input_ids=ids, use_cache=False)[0], expected, subject)

    @contextmanager
    def _shown(self, merges: list[_Merge], share: float = 1.0) -> Iterator[None]:
        """Let adapters change their weights by a share of these, whatever they have learned so far."""
        factors = [_last_factor(merge.layer, self._adapter) for merge in merges]
        saved = [factor.clone() for factor in factors]
        for merge, factor in zip(merges, factors, strict=True):
            factor.copy_(torch.linspace(-1, 1, factor.numel(), device=factor.device).view_as(factor))
            base = getattr(merge.layer.get_base_layer(), merge.parameter)
            delta = merge.layer.get_delta_weight(self._adapter).float()
            factor.mul_(share * base.float().norm() / delta.norm().clamp(min=1e-6))
        try:
            yield
        finally:
            for factor, numbers in zip(factors, saved, strict=True):
                factor.copy_(numbers)


def _last_factor(layer: Any, adapter: str) -> Tensor:
    """B of an adapter, which is zeros at first."""
    if adapter in layer.lora_B:
        weight: Tensor = layer.lora_B[adapter].weight
        return weight
    factor: Tensor = layer.lora_embedding_B[adapter]
    return factor


def _calls(model: Any, names: set[str], ids: Tensor) -> dict[str, tuple[Any, Any, Tensor]]:
    """What modules are given and give when a model reads a text; nothing of those that it does not call."""
    calls: dict[str, tuple[Any, Any, Tensor]] = {}

    def note(name: str, inputs: Any, options: Any, result: Any) -> None:
        calls[name] = (_cloned(inputs), {k: _cloned(v) for k, v in options.items()}, _cloned(result))

    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, options, result, name=name: note(name, inputs, options, result),
            with_kwargs=True,
        )
        for name in names
    ]
    try:
        final_states(model, input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _cloned(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_cloned(part) for part in value)
    return value.clone() if isinstance(value, Tensor) else value


def _compare(actual: Any, expected: Any, subject: str) -> None:
    """Raise unless two results agree; of several tensors, in one: a router's choices may turn by rounding.

    Raises:
        ModelError: they differ by more than rounding.
    """
    pairs = zip(_tensors(actual), _tensors(expected), strict=True)
    gap = min(float((a - e).norm() / e.norm().clamp(min=1e-6)) for a, e in pairs)
    if not gap <= _TOLERANCE.get(next(iter(_tensors(expected, cast=False))).dtype, _ROUNDED):
        raise ModelError(
            f"{subject} computes something else in peft than merged into its weight, by {gap:.2g} of the "
            f"result's norm; {_EXPECTED}"
        )


def _tensors(result: Any, *, cast: bool = True) -> list[Tensor]:
    """Those of real numbers in a module's result, what is infinite as 0."""
    if isinstance(result, Tensor):
        if not result.is_floating_point():
            return []
        return [result.float().nan_to_num(nan=torch.nan, posinf=0.0, neginf=0.0) if cast else result]
    if isinstance(result, tuple):
        return [tensor for part in result for tensor in _tensors(part, cast=cast)]
    return []
