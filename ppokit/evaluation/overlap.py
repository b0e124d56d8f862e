"""Held-out prompts that are among the training prompts too, or there more than once.

What the former measure, training has seen; the latter make intervals narrower than they are.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppokit.data.prompt_rows import prompt_of, read_prompts
from ppokit.data.tables import is_file
from ppokit.errors import PpokitWarning
from ppokit.evaluation.view import HeldOutPrompts, read_held_out

if TYPE_CHECKING:
    from ppokit.config.settings import Settings


def warn_of_overlap(training: Sequence[str], held_out: HeldOutPrompts) -> None:
    """Warn with the numbers of both, where there are any; letter case, white space and Unicode form aside."""
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
    first: dict[str, int] = {}
    for number, text in zip(held_out.numbers, held_out.texts, strict=True):
        first.setdefault(_plain(text), number)
    if again := sorted({*held_out.numbers} - {*first.values()}):
        warnings.warn(
            f"evaluation.prompts: {len(again)} of {len(held_out.texts)} held-out prompts are there before, "
            "but for letter case and white space: intervals take each as one of its own, and are too narrow; "
            "take them out, or set evaluation.prompts.distinct: true. The first is row "
            f"{again[0]}",
            PpokitWarning,
            stacklevel=2,
        )


def warn_of_overlap_in_files(settings: Settings) -> None:
    """The same before a run, where both are files on this machine.

    Raises:
        DataError: they cannot be read.
    """
    held_out = None if settings.evaluation is None else settings.evaluation.prompts
    if held_out is None or not is_file(held_out.path) or not is_file(settings.prompts.path):
        return
    prompts, chat = settings.prompts, settings.prompts.chat
    training = [prompt_of(row, prompts) for row in read_prompts(prompts, chat=chat).records()]
    warn_of_overlap(training, read_held_out(held_out, chat=chat))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
