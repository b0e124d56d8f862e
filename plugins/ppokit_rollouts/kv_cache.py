"""Keys and values of the tokens read so far, in preallocated memory.

transformers' own cache copies every layer's keys and values anew for each token, which takes a third of the
sampling time on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def supports_concat(config: Any) -> bool:
    """Whether the model's caches are all of plain keys and values: no sliding windows, no states."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def preallocated_cache(config: Any, capacity: int, parts: Sequence[Any] = (), repeats: int = 1) -> Any:
    """A DynamicCache whose plain layers write into preallocated memory.

    Args:
        capacity: tokens that there is buffer for.
        parts: caches of some rows each, whose states it starts with, row after row; left-padded, so that
            all of them end with the same column. Their models' layers are plain (`supports_concat`).
        repeats: how often each of their rows.
    """
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
        keys: Tensor
        values: Tensor
        buffer: tuple[Tensor, Tensor] | None = None

        def update(
            self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            length = self.get_seq_length()
            longer = length + key_states.shape[-2]
            if self.buffer is None:
                size = (*key_states.shape[:-2], max(capacity, longer))
                buffers = (key_states.new_empty(*size, t.shape[-1]) for t in (key_states, value_states))
                self.buffer = (next(buffers), next(buffers))
                if length:
                    self.buffer[0][..., :length, :] = self.keys
                    self.buffer[1][..., :length, :] = self.values
            for buffer, states in zip(self.buffer, (key_states, value_states), strict=True):
                buffer[..., length:longer, :] = states
            self.keys, self.values = (buffer[..., :longer, :] for buffer in self.buffer)
            return self.keys, self.values

        def concat(self, layers: Sequence[Any]) -> None:
            self.lazy_initialization(layers[0].keys, layers[0].values)
            ends = torch.tensor([0] + [repeats * len(layer.keys) for layer in layers]).cumsum(0).tolist()
            width = max(layer.get_seq_length() for layer in layers)
            buffers = []
            for name in ("keys", "values"):
                states = [getattr(layer, name) for layer in layers]
                _, heads, _, size = states[0].shape
                buffer = states[0].new_empty(ends[-1], heads, max(capacity, width), size)
                for (start, end), own in zip(pairwise(ends), states, strict=True):
                    begin = width - own.shape[-2]
                    buffer[start:end, :, :begin] = 0  # padding: what is not attended to must be finite still
                    buffer[start:end, :, begin:width] = own.repeat_interleave(repeats, dim=0)
                buffers.append(buffer)
            self.buffer = (buffers[0], buffers[1])
            self.keys, self.values = (buffer[..., :width, :] for buffer in self.buffer)

        def reorder_cache(self, beam_idx: Tensor) -> None:
            super().reorder_cache(beam_idx)
            self.buffer = None

    cache = DynamicCache(config=config)
    # Layers with other rules (sliding windows, states) stay as they are.
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    for index, layer in enumerate(cache.layers):
        own = [part.layers[index] for part in parts]
        if own and own[0].is_initialized:  # a layer that the model leaves out has none
            layer.concat(own)
    return cache


def select_rows(state: Any, rows: Tensor) -> Any:
    """A model's state with these rows of its batch, in this order and as often as they are named.

    What selects by `reorder_cache`, as the layers of transformers' caches, does so in place. What else it
    holds is tensors whose first dimension is the batch, in lists, mappings or attributes; those of one
    dimension are counters.
    """
    from torch import Tensor
    from transformers import Cache

    if isinstance(state, Tensor):
        return state.index_select(0, rows) if state.dim() > 1 else state
    if isinstance(state, dict):
        return {key: select_rows(part, rows) for key, part in state.items()}
    if isinstance(state, list | tuple):
        return type(state)([select_rows(part, rows) for part in state])
    if hasattr(state, "reorder_cache") and not isinstance(state, Cache):  # which may hold more than layers
        state.reorder_cache(rows)
    elif hasattr(state, "__dict__"):
        for name, part in vars(state).items():
            if isinstance(part, Tensor | dict | list | tuple | Cache):
                setattr(state, name, select_rows(part, rows))
    return state
