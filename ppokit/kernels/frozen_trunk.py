"""What a frozen base's lower layers made of texts, kept for passes that begin above them.

The value adapter stands on the upper third of the layers (`ppokit.models.lora.attach`). Below, the value
function is the base itself, as is the reference, and what those layers make of a text never changes: the
first pass of a step computes it, and the value function's later passes start in the middle. Each process
keeps what it has computed itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ppokit.data.batches import TokenBatch

MOST_BYTES = 512 * 2**20
"""Of kept states, the oldest of which go first; they are computed anew when they are asked for."""


def layers_of(model: Any) -> list[nn.Module]:
    """The model's layers, from the lowest; none where they are no such list."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return list(next(lists, []))


def has_adapter(module: nn.Module, adapter: str) -> bool:
    """Whether peft has wrapped this module with an adapter of that name."""
    return adapter in getattr(module, "lora_A", ()) or adapter in getattr(module, "lora_embedding_A", ())


def build(model: Any, adapter: str) -> FrozenTrunkCache | None:
    """The layers below the lowest that has an adapter, or None where there are none to leave out.

    Args:
        model: a causal LM as its frozen base, all adapters off; its lower layers are changed in place.
    """

    layers = layers_of(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    on = [any(has_adapter(module, adapter) for module in layer.modules()) for layer in layers]
    # One that also stands elsewhere, as on the embeddings, changes what the layers are given.
    if (
        True not in on[1:]
        or on[0]
        or any(has_adapter(m, adapter) for m in model.modules() if id(m) not in inside)
    ):
        return None
    lower = FrozenTrunkCache(model, on.index(True))
    if lower.agree():
        return lower
    lower.remove()
    return None


class FrozenTrunkCache:
    """The lower layers of a base, which it can leave out, and the states behind them.

    Args:
        model: a causal LM; its lower layers are changed in place.
        count: how many of them are lower ones.
    """

    def __init__(self, model: Any, count: int) -> None:
        self._base = model.base_model
        layers = layers_of(model)
        self._lower = layers[:count]
        self._skip = self._watch = False
        self._seen: Tensor | None = None
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._bytes = 0
        lower = self

        def forward(layer: Any, hidden_states: Tensor, *args: Any, **more: Any) -> Any:
            if lower._skip:
                return hidden_states
            return type(layer).forward(layer, hidden_states, *args, **more)

        for layer in self._lower:
            layer.forward = MethodType(forward, layer)
        self._hook = layers[count].register_forward_pre_hook(self._see)

    def remove(self) -> None:
        """Leave the model as it was."""
        self._hook.remove()
        for layer in self._lower:
            del layer.forward

    def clear(self) -> None:
        """Let go of all texts."""
        self._kept.clear()
        self._bytes = 0

    @contextmanager
    def capture(self, batch: TokenBatch) -> Iterator[None]:
        """Keep the states of the pass that is made within, as far as values are asked for."""
        with self._watched():
            yield
            assert self._seen is not None
            for row, key in enumerate(_texts(batch)):
                if key not in self._kept:
                    self._kept[key] = self._seen[row, : len(key)].clone()
                    self._bytes += _size(self._kept[key])
        while self._bytes > MOST_BYTES:
            self._bytes -= _size(self._kept.pop(next(iter(self._kept))))

    def get(self, batch: TokenBatch) -> Tensor | None:
        """The states in the middle, 0 on padding. [b,T,H]; None where one of the texts is not kept."""
        found = [self._kept.get(key) for key in _texts(batch)]
        known = [states for states in found if states is not None]
        if len(known) < len(found) or not known:
            return None
        out = known[0].new_zeros(*batch.input_ids.shape, known[0].shape[-1])
        for row, states in enumerate(known):
            out[row, : len(states)] = states
        return out

    def forward_from(self, states: Tensor) -> Any:
        """The base's output from states in the middle on."""
        with self._skipped():
            return self._base(inputs_embeds=states, use_cache=False)

    @torch.no_grad()
    def agree(self) -> bool:
        """Whether a pass from the middle gives what a whole one does: some models do more before it."""
        vocabulary = self._base.get_input_embeddings().weight.shape[0]
        probe = torch.linspace(vocabulary // 4, vocabulary // 2, 16, device=self._base.device).long()[None]
        try:
            with self._watched():
                whole = self._base(input_ids=probe, use_cache=False).last_hidden_state.float()
                assert self._seen is not None
                half = self.forward_from(self._seen).last_hidden_state.float()
        except Exception:  # whatever a model does below, for layers above
            return False
        return bool((half - whole).norm() <= 1e-5 * whole.norm())

    def _see(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        if self._watch and not self._skip:
            self._seen = given[0].detach()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watch = True
        try:
            yield
        finally:
            self._watch, self._seen = False, None

    @contextmanager
    def _skipped(self) -> Iterator[None]:
        self._skip = True
        try:
            yield
        finally:
            self._skip = False


def _size(states: Tensor) -> int:
    """Bytes."""
    return states.numel() * states.element_size()


def _texts(batch: TokenBatch) -> list[tuple[int, ...]]:
    """What each row reads until the last state that is asked for; () where none is."""
    ends = torch.zeros(len(batch.input_ids), dtype=torch.long, device=batch.rows.device)
    ends = ends.scatter_reduce(0, batch.rows, batch.positions + 1, "amax")
    ids = batch.input_ids.tolist()
    return [tuple(row[:end]) for row, end in zip(ids, ends.tolist(), strict=True)]
