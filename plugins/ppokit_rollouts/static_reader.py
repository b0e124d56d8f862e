"""Reading token by token with the same shapes each time, as torch.compile and CUDA graphs need it.

transformers' StaticCache has a column for every token that may come. Rows are added to fill the batch up to a
power of two, and those that end are kept until a quarter is enough: 256 go through four shapes, and each is
compiled. A sliding window is a mask.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ppokit.plugin import PpokitWarning
from ppokit_rollouts.compiler import missing
from ppokit_rollouts.readers import CachedReader
from ppokit_rollouts.static_memory import StaticMemory, memory_of, set_length

if TYPE_CHECKING:
    from torch import Tensor

    from ppokit_rollouts.readers import Forward, ModelState

ATTENTION = "ppokit_shared_keys"
"""How transformers' registries of attention functions and masks name `attention`."""
_FEWEST = 8  # rows: fewer take as long
_FEWER = 4  # times: half the rows take about as long, and a new shape takes its time to compile
_COLUMNS = 256  # at a time: one shape for prompts of many lengths
_SHAPES = 64  # compiled at most; torch's own limit is for shapes that never come again
_not_compiled: WeakSet[Any] = WeakSet()


class StaticReader(CachedReader):
    """Goes on from keys and values in memory of one size.

    Args:
        compiled: whether by torch.compile; where that fails, without, and a warning says so.
    """

    memory: StaticMemory
    slots: Tensor  # [responses] which rows are theirs

    def __init__(
        self, forward: Forward, state: ModelState, *, max_new_tokens: int, compiled: bool = False
    ) -> None:
        # Prompts alone: what comes after them has its own memory.
        super().__init__(forward, state, padded=True, max_new_tokens=0)
        self.model = forward.model
        self.windows = windows_of(self.model.config)
        self.tokens_to_come = max_new_tokens
        self.compiled = compiled and self.model not in _not_compiled

    def read(self, prompt_ids: Sequence[Sequence[int]], repeats: int) -> tuple[Tensor, Tensor]:
        import torch

        logits, order = super().read(prompt_ids, repeats)
        columns = -(-(self._read + self.tokens_to_come) // _COLUMNS) * _COLUMNS
        self.memory = memory_of(self.model, _rows(len(order)), columns)
        self.column = torch.tensor([self._read], device=self.device)
        # Added to scores: nothing where a column is seen, else the most negative number.
        self.hidden = torch.finfo(self.model.dtype).min
        bias = torch.full((len(order), 1, 1, self.memory.columns), self.hidden)
        bias = bias.to(self.device, self.model.dtype)
        bias[:, 0, 0, : self._read].masked_fill_(self.mask.bool(), 0)
        self.biases = {kind: bias.clone() for kind in self.windows}
        for kind, window in self.windows.items():
            if window is not None:
                self.biases[kind][..., : max(0, self._read - window)] = self.hidden
        self._fill(torch.arange(len(order), device=self.device))
        return logits, order

    def select(self, rows: Tensor) -> None:
        self.slots = self.slots[rows.to(self.device)]
        if _FEWER * _rows(len(self.slots)) <= len(self.tokens):
            self._fill(self.slots)

    def _fill(self, slots: Tensor) -> None:
        """Go on with these rows, in this order, and with some more up to a power of two."""
        import torch

        count = len(slots)
        index = torch.cat([slots, slots[:1].expand(_rows(count) - count)])
        self.state = self.memory.cache(self.state, index, self._read)
        self.biases = {kind: bias[index] for kind, bias in self.biases.items()}
        self.positions = self.positions[index]
        self.slots = torch.arange(count, device=self.device)
        self.tokens = torch.zeros(len(index), 1, dtype=torch.long, device=self.device)

    def append(self, tokens: Tensor) -> Tensor:
        self.tokens[self.slots, 0] = tokens
        self.positions += 1
        for kind, window in self.windows.items():
            self.biases[kind].index_fill_(3, self.column, 0.0)
            if window is not None and self._read >= window:
                self.biases[kind].index_fill_(3, self.column - window, self.hidden)
        inputs: dict[str, Any] = {
            "input_ids": self.tokens,
            # Models with layers of both kinds take a mask for each.
            "attention_mask": self.biases if len(self.biases) > 1 else next(iter(self.biases.values())),
            "position_ids": self.positions,
            self.kind.name: self.state,
            "use_cache": True,
        }
        if "cache_position" in self.forward.names:
            inputs["cache_position"] = self.column
        logits: Tensor = self._call(inputs).logits[self.slots, -1]
        self.column += 1
        self._read += 1
        return logits

    def _call(self, inputs: dict[str, Any]) -> Any:
        model = self.model
        if not self.compiled:
            return model(**inputs)
        import torch
        from transformers import CompileConfig

        try:
            # The last step's logits have been read.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            with torch._dynamo.config.patch(recompile_limit=_SHAPES):
                return model.get_compiled_call(CompileConfig(dynamic=False))(**inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler's, or that of what it calls
            self.compiled = False
            _not_compiled.add(model)
            set_length(self.state, self._read)  # it may have come as far as to count this token
            lacks = missing(self.device.type)
            why = f"this machine lacks {lacks}" if lacks else type(error).__name__
            warnings.warn(
                f"rollout.decoding: torch.compile fails on {type(model).__name__} ({why}), so that it "
                "samples without.",
                PpokitWarning,
                stacklevel=2,
            )
            return model(**inputs)


def share_keys(model: Any) -> None:
    """Let a model that attends by PyTorch's attention read keys once for the heads that share them."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Any:
    """transformers' own, but for one token per row with a mask for all heads.

    It would repeat keys and values for each head where it is compiled: many times the bytes of the cache.
    Heads that share keys are here as several tokens of one head.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, tokens, size = query.shape
    shared = key.shape[1]
    others = ("softcap", "s_aux", "position_bias", "cache")
    if (
        tokens > 1
        or heads == shared
        or attention_mask is None
        or attention_mask.shape[1] > 1
        or any(options.get(name) is not None for name in others)
    ):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    together = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, shared, heads // shared, size),
        key,
        value,
        attn_mask=attention_mask,
        scale=options.get("scaling"),
    )
    return together.reshape(rows, 1, heads, value.shape[-1]), None


def windows_of(config: Any) -> dict[str, int | None]:
    """Tokens that each kind of a model's layers sees, its own among them; None for all.

    Nothing where layers keep other than plain keys and values, or see in a way that is neither of these.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    windows: dict[str, int | None] = {}
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicLayer:
            windows["full_attention"] = None
        elif type(layer) is not DynamicSlidingWindowLayer or (
            windows.setdefault("sliding_attention", layer.sliding_window) != layer.sliding_window
        ):
            return {}
    # Chunks are cached as windows are, and seen otherwise.
    return {} if getattr(config.get_text_config(), "attention_chunk_size", None) is not None else windows


def _rows(count: int) -> int:
    """Rows of a batch of so many responses."""
    return max(_FEWEST, 1 << (count - 1).bit_length())
