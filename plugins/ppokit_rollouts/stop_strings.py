"""Where responses first hold a stop string, found in the last tokens' text rather than in all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppokit.plugin import decode_responses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES = 4  # of a character at most, each of which may be a token, and a replacement character until then


class StopStrings:
    """Looks for stop strings in responses that grow.

    Args:
        stops: any of them ends a response.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        longest = max(stops, key=len, default="")
        self._enough = len(longest) + _BYTES
        self._tail = len(longest.encode()) + _BYTES

    def find(self, prompt: Sequence[int], ids: Sequence[int], known: int) -> tuple[int, str] | None:
        """The first prefix of a response whose text holds one.

        Args:
            ids: the response's tokens so far.
            known: how many of its first tokens are known to hold none.

        Returns: tokens of that prefix, and its text up to the stop string; None where none is held.
        """
        if not self.stops or known >= len(ids):
            return None
        start = max(0, known - self._tail)
        if start and len(self._texts([*prompt, *ids[:start]], [ids[start:known]])[0]) < self._enough:
            start = 0  # tokens without a text, as special ones
        ends = range(known + 1, len(ids) + 1)
        tails = self._texts([*prompt, *ids[:start]], [ids[start:end] for end in ends])
        for end, tail in zip(ends, tails, strict=True):
            if any(stop in tail for stop in self.stops):
                (text,) = self._texts(prompt, [ids[:end]])
                positions = [text.index(stop) for stop in self.stops if stop in text]
                if positions:
                    return end, text[: min(positions)]
        return None

    def _texts(self, prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> list[str]:
        return decode_responses(self.tokenizer, [prompt] * len(responses), responses)
