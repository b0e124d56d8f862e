"""transformers' static caches of a model, at the same addresses whenever it samples.

A CUDA graph is recorded for the addresses of what it reads and writes. So the memory is kept from batch to
batch and grows only, and caches of fewer rows are the first rows of the largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import Tensor


class StaticMemory:
    """Memory for the keys and values of so many rows and columns.

    Args:
        config: the model's.
    """

    def __init__(self, config: Any, rows: int, columns: int) -> None:
        self.config, self.rows, self.columns = config, rows, columns
        self._caches: dict[int, Any] = {}
        self._memory: dict[tuple[int, str], Tensor] = {}

    def cache(self, source: Any, index: Tensor, columns: int) -> Any:
        """A cache with these rows of another one's first columns; its own row count is theirs.

        Args:
            source: of plain layers and sliding windows; one of this memory may be asked for fewer rows, in
                place.
            index: [rows] of the source, any as often as wanted.
        """
        import torch

        rows = len(index)
        known = rows in self._caches
        if not known:
            self._caches[rows] = self._new_cache()
        for number, layer in enumerate(self._caches[rows].layers):
            own = source.layers[number]
            if not own.is_initialized:  # a layer that the model leaves out
                continue
            if not known:
                layer.lazy_initialization(own.keys[:0], own.values[:0])
            for name in ("keys", "values"):
                states = getattr(own, name)[:, :, :columns][index]
                if not known:
                    memory = self._of(number, name, states)[:rows]
                    torch._dynamo.mark_static_address(memory)
                    setattr(layer, name, memory)
                # What has left a sliding window is no longer there, and hidden by the mask.
                getattr(layer, name)[:, :, columns - states.shape[2] : columns] = states
        set_length(self._caches[rows], columns)
        return self._caches[rows]

    def _new_cache(self) -> Any:
        """transformers' own, in which layers of sliding windows have all columns too: masks make windows."""
        from transformers import StaticCache
        from transformers.cache_utils import StaticLayer

        cache = StaticCache(config=self.config, max_cache_len=self.columns)
        cache.layers = [StaticLayer(max_cache_len=self.columns) for _ in cache.layers]
        return cache

    def _of(self, number: int, name: str, like: Tensor) -> Tensor:
        """All of a layer's memory: zeros, since what is not attended to must be finite still."""
        if (number, name) not in self._memory:
            size = (self.rows, like.shape[1], self.columns, like.shape[3])
            self._memory[number, name] = like.new_zeros(size)
        return self._memory[number, name]


def set_length(cache: Any, columns: int) -> None:
    """Let the next token stand in this column; earlier versions are told by cache_position."""
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length.fill_(columns)


_MEMORY: WeakKeyDictionary[Any, StaticMemory] = WeakKeyDictionary()


def memory_of(model: Any, rows: int, columns: int) -> StaticMemory:
    """A model's memory for at least so many rows and columns."""
    memory = _MEMORY.get(model)
    if memory is None or memory.rows < rows or memory.columns < columns:
        if memory is not None:
            rows, columns = max(rows, memory.rows), max(columns, memory.columns)
            del _MEMORY[model], memory  # before there is more
        _MEMORY[model] = StaticMemory(model.config, rows, columns)
    return _MEMORY[model]
