"""Hidden states of a frozen base's lower layers, kept for later passes over the same texts.

The value adapter stands on the upper third of the layers (`ppokit.models.lora.attach`). Below it, the value
function is the base, as is the reference, and the hidden states of a text never change: the first pass of a
step computes them, and the value function's later passes start in the middle. Each process keeps what it has
computed itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppokit.kernels.patching import patch, unpatch
from ppokit.plugin.output_head import final_states

if TYPE_CHECKING:
    from ppokit.data.batches import TokenBatch

name = "frozen_trunk"
ADAPTER = "value"
"""Adapter of the role whose passes start in the middle."""
MOST_BYTES = 512 * 2**20
"""Of kept states, the oldest of which go first; they are computed anew when they are needed."""
_KEY = "_ppokit_frozen_trunk"


def install(model: Any) -> bool:
    """Let a causal LM leave out the layers below the lowest one with the value adapter, if there are any.

    The cache that does so is `cache_of(model)`. Some models do more before that layer than run the layers
    below; they stay as they are.
    """
    if cache_of(model) is not None:
        return True
    layers = layers_of(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    on = [any(has_adapter(module, ADAPTER) for module in layer.modules()) for layer in layers]
    # One that also stands elsewhere, as on the embeddings, changes what the layers are given.
    if (
        True not in on[1:]
        or on[0]
        or any(has_adapter(m, ADAPTER) for m in model.modules() if id(m) not in inside)
    ):
        return False
    cache = FrozenTrunkCache(model, on.index(True))
    if not cache.agrees():
        cache.remove()
        return False
    setattr(model, _KEY, cache)
    return True


def remove(model: Any) -> None:
    """Give the layers their own forward back, and forget all states."""
    cache = cache_of(model)
    if cache is not None:
        cache.remove()
        delattr(model, _KEY)


def cache_of(model: Any) -> FrozenTrunkCache | None:
    """The model's cache; None where it is not installed."""
    cache: FrozenTrunkCache | None = getattr(model, _KEY, None)
    return cache


def layers_of(model: Any) -> list[nn.Module]:
    """The model's layers, from the lowest: the list that holds most of its weights; none where none is."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    inside = {id(m) for outer in lists for m in outer.modules() if m is not outer}
    outermost = [m for m in lists if id(m) not in inside]
    return list(max(outermost, key=lambda m: sum(p.numel() for p in m.parameters()), default=[]))


def has_adapter(module: nn.Module, adapter: str) -> bool:
    """Whether peft has wrapped this module with an adapter of that name."""
    return adapter in getattr(module, "lora_A", ()) or adapter in getattr(module, "lora_embedding_A", ())


class FrozenTrunkCache:
    """The lower layers of a base, which it can leave out, and the states behind them.

    Args:
        model: a causal LM; its lower layers are changed in place.
        count: how many of them are lower ones.

    Attributes:
        instead: the states in the middle that they give while they are being left out.
        others: what a layer gives beside its states, where it gives a tuple.
        bytes: of the states that are kept.
    """

    def __init__(self, model: Any, count: int) -> None:
        self._model = model
        layers = layers_of(model)
        self._lower = layers[:count]
        self.instead: Tensor | None = None
        self.others: int | None = None
        self._watch = False
        self._watched: Tensor | None = None
        self._states: dict[tuple[int, ...], Tensor] = {}
        self.bytes = 0
        for layer in self._lower:
            layer.frozen_trunk = self  # type: ignore[assignment]
            patch(layer, _forward)
        self._hook = layers[count].register_forward_pre_hook(self._on_input, with_kwargs=True)

    def remove(self) -> None:
        """Leave the model as it was."""
        self._hook.remove()
        for layer in self._lower:
            unpatch(layer, _forward)
            del layer.frozen_trunk

    def clear(self) -> None:
        """Forget all texts."""
        self._states.clear()
        self.bytes = 0

    @contextmanager
    def capture(self, batch: TokenBatch) -> Iterator[None]:
        """Keep the states of the pass that is run within, up to the last one that values are read from."""
        with self._watching():
            yield
            assert self._watched is not None
            for (row, start), text in batch.texts:
                if text not in self._states:
                    self._states[text] = self._watched[row, start : start + len(text)].clone()
                    self.bytes += self._states[text].nbytes
        while self.bytes > MOST_BYTES:
            self.bytes -= self._states.pop(next(iter(self._states))).nbytes

    def get(self, batch: TokenBatch) -> Tensor | None:
        """The states in the middle, 0 where none is needed; None where a text is not kept.

        Returns: [b,T,H], or [b,T,S,H] of a model with several streams of states (hyper-connections).
        """
        kept = [self._states.get(text) for _, text in batch.texts]
        known = [states for states in kept if states is not None]
        if len(known) < len(kept) or not known:
            return None
        out = known[0].new_zeros(*batch.input_ids.shape, *known[0].shape[1:])
        for ((row, start), _), states in zip(batch.texts, known, strict=True):
            out[row, start : start + len(states)] = states
        return out

    def forward_from(self, states: Tensor, forward: Callable[[], Tensor]) -> Tensor:
        """The final states [b,T,H] of a pass from states in the middle on.

        Args:
            forward: the whole pass.
        """
        self.instead = states
        try:
            return forward()
        finally:
            self.instead = None

    @torch.no_grad()
    def agrees(self) -> bool:
        """Whether a pass from the middle gives the whole one's numbers: some models do more before it."""
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        probe = torch.linspace(vocabulary // 4, vocabulary // 2, 16, device=self._model.device).long()[None]

        def forward() -> Tensor:
            return final_states(self._model, input_ids=probe, use_cache=False)[0]

        try:
            with self._watching():
                whole = forward().float()
                assert self._watched is not None
                half = self.forward_from(self._watched, forward).float()
        except Exception:  # whatever a model does below, for layers above
            return False
        return bool((half - whole).norm() <= 1e-5 * whole.norm())

    def _on_input(self, _: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self._watch and self.instead is None:
            self._watched = (inputs[0] if inputs else options["hidden_states"]).detach()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._watch = True
        try:
            yield
        finally:
            self._watch, self._watched = False, None


def _forward(layer: Any, *inputs: Any, **options: Any) -> Any:
    trunk: FrozenTrunkCache = layer.frozen_trunk
    if trunk.instead is None:
        output = type(layer).forward(layer, *inputs, **options)
        trunk.others = len(output) - 1 if isinstance(output, tuple) else None
        return output
    return trunk.instead if trunk.others is None else (trunk.instead, *[None] * trunk.others)
