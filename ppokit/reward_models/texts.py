"""Prompts and responses as token ids, laid out as the reward `reward_model` lays them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ppokit.reward_models.templates import encode, padding_of

if TYPE_CHECKING:
    from torch import Tensor

Advance = Callable[[int], None]
Encoded = dict[str, list[int]]
_MULTIPLE = 8  # a CPU prepares its kernels anew for every width


class Texts:
    """How texts are made and truncated.

    Args:
        tokenizer: any of transformers'; it must have a pad token.
        template: of `{prompt}` and `{response}`; two templates are joined as a pair by the tokenizer, the
            second of which is the response.
        max_length: tokens that are read, counted from the end; of a pair the prompt is truncated first.
    """

    def __init__(self, tokenizer: Any, template: Sequence[str], max_length: int) -> None:
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
        self.pad = padding_of(tokenizer, marked=len(template) > 1)

    def encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Encoded]:
        """Token ids and so on of each text, not padded; of a pair also which are the response's."""
        encoded, _ = encode(
            self.tokenizer, self.template, prompts, responses, limit=self.max_length, pad=self.pad
        )
        return encoded

    def batch(self, encoded: Sequence[Encoded], device: Any) -> dict[str, Tensor]:
        """Texts padded on the right to about the longest. [texts, tokens] each"""
        import torch

        width = max(len(one["input_ids"]) for one in encoded)
        width += -width % _MULTIPLE
        return {
            key: torch.tensor(
                [one[key] + [value] * (width - len(one[key])) for one in encoded], device=device
            )
            for key, value in self.pad.items()
        }


def lengths(encoded: Sequence[Encoded]) -> list[int]:
    """Tokens of each text."""
    return [len(one["input_ids"]) for one in encoded]
