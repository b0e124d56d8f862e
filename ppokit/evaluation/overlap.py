"""Held-out prompts that are among the training prompts too: what they measure, training has seen."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence

from ppokit.errors import PpokitWarning
from ppokit.evaluation.view import HeldOutPrompts


def warn_of_overlap(training: Sequence[str], held_out: HeldOutPrompts) -> None:
    """Warn with their number, where there are any; letter case, white space and Unicode form aside."""
    known = set(map(_plain, training))
    shared = [
        (number, text)
        for number, text in zip(held_out.numbers, held_out.texts, strict=True)
        if _plain(text) in known
    ]
    if shared:
        number, text = shared[0]
        warnings.warn(
            f"evaluation.prompts: {len(shared)} of {len(held_out.texts)} held-out prompts are among the "
            "training prompts too, but for letter case and white space, so that the evaluation is too kind; "
            f"take them out of one of the two. The first is row {number}, {text[:60]!r}",
            PpokitWarning,
            stacklevel=2,
        )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
