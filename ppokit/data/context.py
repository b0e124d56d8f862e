"""How long a text may be, by a model's configuration."""

from __future__ import annotations

from typing import Any


def rotary_parameters(config: Any) -> list[dict[str, Any]]:
    """The rotary parameters of a configuration; some have one set for each kind of layer."""
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return [rope, *(own for own in rope.values() if isinstance(own, dict))]


def first_context(config: Any) -> int | None:
    """Tokens of the longest text that a model was trained for; None, or XLNet's -1, is no limit."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if length is None or length < 1 else int(length)


def context_length(config: Any) -> int | None:
    """Tokens of the longest text that a model takes; None where there is no limit.

    `dynamic` rotary factors are there to read longer texts than it was trained for.
    """
    dynamic = any(own.get("rope_type") == "dynamic" for own in rotary_parameters(config))
    return None if dynamic else first_context(config)
