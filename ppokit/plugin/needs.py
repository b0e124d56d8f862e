"""A component sees what it named in `needs`, whatever else the core computed for other components."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeVar

from ppokit.plugin.types import LossInputs, Rollout

T = TypeVar("T", Rollout, LossInputs)

_NEED_OF_FIELD = {
    "old_logprobs": "old_logprobs",
    "new_logprobs": "new_logprobs",
    "ref_logprobs": "ref_logprobs",
    "values": "values",
    "old_values": "values",
    "entropy": "entropy",
    "greedy": "greedy",
}


def only_needed(given: T, needs: Collection[str]) -> T:
    """A rollout, or a loss's inputs, with None for what is not among a component's needs."""
    hidden: dict[str, Any] = {
        name: None
        for name, need in _NEED_OF_FIELD.items()
        if need not in needs and getattr(given, name, None) is not None
    }
    return replace(given, **hidden) if hidden else given
