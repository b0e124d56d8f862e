"""Examples: what a reward must prefer, named by its author; the conformance kit and `validate` run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """Responses to one prompt, of which some must score higher than others.

    Attributes:
        better: responses, each of which must score higher than each of `worse` and than `nothing`.
        worse: responses that must score lower.
        prompt: what was asked.
        nothing: an answer that does nothing. Where it scores best, doing nothing is what the policy learns.
        row: columns of the data set that the reward reads.
        options: keys beside `use`, for a reward whose defaults do not do.
    """

    better: tuple[str, ...]
    worse: tuple[str, ...] = ()
    prompt: str = ""
    nothing: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
