"""Phrases that every error shares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a, b and c`; `none` for no words."""
    *head, tail = list(words) or ["none"]
    return f"{', '.join(head)} {last} {tail}" if head else tail


def shorten(text: str) -> str:
    """The beginning of a text that is too long for a message."""
    return text if len(text) <= 60 else text[:57] + "..."


def shown(value: Any) -> str:
    """A value from a recipe as its author wrote it, with its type where the two are confused."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"{shorten(value)!r} (text)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return repr(value)


READS_AHEAD = (
    "reads what comes after a token, so that it predicts no next one; expected a causal language model (of a "
    "BERT-like one, one with is_decoder: true in its config.json)."
)
"""Of a model whose states at a position know what comes after it."""

NOT_RESIZED = "Was the tokenizer given tokens that the model was not (resize_token_embeddings)?"
"""What lies behind a token without an embedding."""
