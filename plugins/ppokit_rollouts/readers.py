"""Reading texts token by token: prompts once, then one token per response at a time.

CachedReader     goes on from the model's state: keys and values, or whatever it calls its own
WholeTextReader  reads each text anew for each token
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ppokit.plugin import length_groups, next_token_logits, token_batches
from ppokit_rollouts.kv_cache import preallocated_cache, select_rows, supports_concat

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LEAST_TOKENS = 256
"""Of prompts that are read together, padding included: fewer are read no faster than these."""
MOST_GROUPS = 4
"""Passes over the prompts of a batch."""
TOKENS_AT_A_TIME = 8192
"""Of whole texts that are read together."""


class Reader(Protocol):
    """A batch of texts in progress, one row per response."""

    def read(self, prompt_ids: Sequence[Sequence[int]], repeats: int) -> tuple[Tensor, Tensor]:
        """Read each prompt for its responses.

        Returns: [b,V] logits of each response's first token, and [b] which response each row is.
        """
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, on the CPU, in this order."""
        ...

    def append(self, tokens: Tensor) -> Tensor:
        """[b,V] logits of what follows one token [b] per row."""
        ...


@dataclass(frozen=True)
class ModelState:
    """How a model takes its state.

    Attributes:
        name: the argument of its forward.
        start: what it begins with: transformers' general cache, for the layers that the model's configuration
            has (`configured`) or for as many as come (`growing`); the model's `own`, which the first forward
            returns; or the one that its class has `prepared` for generation.
    """

    name: str
    start: Literal["configured", "growing", "own", "prepared"]


class Forward:
    """Forward passes of a causal LM that end with the next token's logits.

    Attributes:
        names: the arguments that it names.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        arguments = inspect.signature(model.forward).parameters
        self.names = set(arguments)
        self._takes_all = any(own.kind is own.VAR_KEYWORD for own in arguments.values())

    def __call__(self, last: Tensor | None = None, **inputs: Any) -> tuple[Tensor, Any]:
        """[b,V] logits and the model's output.

        Args:
            last: [b] the column of each row's last token; None for the last column.
        """
        if not self._takes_all:
            inputs = {name: value for name, value in inputs.items() if name in self.names}
        return next_token_logits(self.model, last, **inputs)


class CachedReader:
    """Goes on from the model's state.

    Args:
        padded: whether prompts of several lengths are padded on the left; if not, they have one length.
        max_new_tokens: tokens per response.
    """

    def __init__(self, forward: Forward, state: ModelState, *, padded: bool, max_new_tokens: int) -> None:
        self.forward = forward
        self.kind = state
        self.padded = padded
        self.max_new_tokens = max_new_tokens
        self.device = forward.model.device
        self._read = 0  # columns

    def read(self, prompt_ids: Sequence[Sequence[int]], repeats: int) -> tuple[Tensor, Tensor]:
        """Each prompt once, among those of like length."""
        import torch
        from transformers import DynamicCache

        config = self.forward.model.config
        lengths = [len(ids) for ids in prompt_ids]
        width = max(lengths)
        capacity = width + self.max_new_tokens
        concat = self.kind.start == "configured" and supports_concat(config)
        groups = [list(range(len(lengths)))]
        if concat:
            groups = length_groups(lengths, least_tokens=LEAST_TOKENS, most=MOST_GROUPS)
        parts, first = [], []
        for group in groups:
            group_width = max(lengths[i] for i in group)
            input_ids = _left_padded([prompt_ids[i] for i in group], group_width, self.device)
            mask = _left_padded([[1] * lengths[i] for i in group], group_width, self.device)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            state = None
            if self.kind.start == "configured":
                state = DynamicCache(config=config) if concat else preallocated_cache(config, capacity)
            elif self.kind.start == "growing":
                state = DynamicCache()
            elif self.kind.start == "prepared":
                state = self._prepared(input_ids, mask)
            logits, state = self._forward(input_ids, mask, positions, state)
            first.append(logits)
            parts.append(state)
        order = [index for group in groups for index in group]
        rows = torch.arange(len(order)).repeat_interleave(repeats)
        if concat:
            self.state = preallocated_cache(config, capacity, parts, repeats)
        else:
            self.state = select_rows(parts[0], rows.to(self.device))
        mask = _left_padded([[1] * lengths[i] for i in order], width, self.device)
        self._read = width
        self.mask = mask.repeat_interleave(repeats, dim=0)
        self.positions = self.mask.sum(dim=1, keepdim=True) - 1
        return (
            torch.cat(first).repeat_interleave(repeats, dim=0),
            torch.tensor([i * repeats + k for i in order for k in range(repeats)]),
        )

    def select(self, rows: Tensor) -> None:
        rows = rows.to(self.device)
        self.state = select_rows(self.state, rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def append(self, tokens: Tensor) -> Tensor:
        import torch

        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.positions = self.positions + 1
        logits, self.state = self._forward(tokens.unsqueeze(-1), self.mask, self.positions, self.state)
        self._read += 1
        return logits

    def _forward(self, input_ids: Tensor, mask: Tensor, positions: Tensor, state: Any) -> tuple[Tensor, Any]:
        """[b,V] logits of the next token, and the state behind it."""
        import torch

        inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": True}
        if self.padded:
            inputs |= {"attention_mask": mask, "position_ids": positions}
        if state is not None:
            inputs[self.kind.name] = state
        if self.kind.start != "configured" and "cache_position" in self.forward.names:
            inputs["cache_position"] = torch.arange(
                self._read, self._read + input_ids.shape[1], device=self.device
            )
        logits, output = self.forward(**inputs)
        return logits, state if self.kind.start == "configured" else output[self.kind.name]

    def _prepared(self, input_ids: Tensor, mask: Tensor) -> Any:
        """The empty state that the model's class makes for generation."""
        import torch

        inputs = self.forward.model.prepare_inputs_for_generation(
            input_ids,
            attention_mask=mask,
            use_cache=True,
            cache_position=torch.arange(input_ids.shape[1], device=self.device),
        )
        return inputs[self.kind.name]


class WholeTextReader:
    """Reads each text anew for each token, as training does: padded on the right, where no token looks."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.device = forward.model.device

    def read(self, prompt_ids: Sequence[Sequence[int]], repeats: int) -> tuple[Tensor, Tensor]:
        import torch

        self.lengths = [len(ids) for ids in prompt_ids]
        width = max(self.lengths)
        self.ids = torch.tensor([list(ids) + [0] * (width - len(ids)) for ids in prompt_ids]).to(self.device)
        logits = self._logits()
        self.ids = self.ids.repeat_interleave(repeats, dim=0)
        self.lengths = [length for length in self.lengths for _ in range(repeats)]
        return logits.repeat_interleave(repeats, dim=0), torch.arange(len(self.lengths))

    def select(self, rows: Tensor) -> None:
        self.ids = self.ids[rows.to(self.device)]
        self.lengths = [self.lengths[row] for row in rows.tolist()]

    def append(self, tokens: Tensor) -> Tensor:
        import torch

        self.ids = torch.nn.functional.pad(self.ids, (0, 1))
        self.ids[torch.arange(len(tokens)), torch.tensor(self.lengths)] = tokens
        self.lengths = [length + 1 for length in self.lengths]
        return self._logits()

    def _logits(self) -> Tensor:
        """[b,V] of what follows each text."""
        import torch

        parts: list[Tensor] = []
        order: list[int] = []
        for indices in token_batches(range(len(self.lengths)), self.lengths, TOKENS_AT_A_TIME):
            ids = self.ids[indices, : max(self.lengths[i] for i in indices)]
            last = torch.tensor([self.lengths[i] - 1 for i in indices]).to(self.device)
            parts.append(self.forward(last, input_ids=ids, use_cache=False)[0])
            order += indices
        return torch.cat(parts)[torch.tensor(order).argsort().to(self.device)]


def _left_padded(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> Tensor:
    """[len(rows), width] int64, 0 on the left."""
    import torch

    return torch.tensor([[0] * (width - len(row)) + list(row) for row in rows]).to(device)
