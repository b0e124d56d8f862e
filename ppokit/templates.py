"""The text that a reward model reads, made of a prompt and a response."""

from __future__ import annotations

from typing import Any

RESPONSE_MASK = "response_mask"
"""Beside token ids: which of them are the response's, for a model that is told."""


def fill(template: str, prompt: str, response: str) -> str:
    """A template of `{prompt}` and `{response}`, filled in.

    A response to a plain prompt begins with its own blank: after the template's blank it is left out, so that
    the text is that of a rated response, which has none.
    """
    if " {response}" in template:
        response = response.removeprefix(" ")
    return template.format(prompt=prompt, response=response)


def response_mask(encoding: Any) -> list[int]:
    """1 from the first token of the second text on: a response without a token has the one that ends it.

    Args:
        encoding: of one pair of texts, by a tokenizer of the library tokenizers.
    """
    texts = encoding.sequence_ids()
    start = texts.index(1) if 1 in texts else len(texts) - 1
    return [int(place >= start) for place in range(len(texts))]


def truncation(encoding: Any, limit: int) -> str:
    """How a tokenizer cuts a text to a limit: of a pair the first text, the prompt, as long as there is one.

    Args:
        encoding: of the whole text, or the pair.
        limit: tokens that may stay.
    """
    texts = encoding.sequence_ids()
    spare = texts.count(0) - (len(texts) - limit)
    return "only_first" if 1 in texts and spare > 0 else "longest_first"
