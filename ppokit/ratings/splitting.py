"""Ratings in two parts by prompt, so that no prompt of the held-out part is trained on."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

from ppokit.errors import DataError


def same_prompt(prompt: str) -> str:
    """What a person would call the same prompt: case, blanks and forms of Unicode (NFKC) do not count."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def held_out(prompts: Iterable[str], share: float, seed: int) -> set[str]:
    """Prompts to hold out, by `same_prompt`: a share of the different ones, at least one, never all.

    They are those with the smallest hash of seed and prompt: the same on every machine, whatever the order of
    the file, and nearly the same when rows are added.

    Raises:
        DataError: there are fewer than two different prompts.
    """
    different = {same_prompt(prompt) for prompt in prompts}
    if len(different) < 2:
        raise DataError("all rows have the same prompt; expected at least two, to hold one out.")
    count = min(max(round(share * len(different)), 1), len(different) - 1)
    ordered = sorted(different, key=lambda p: hashlib.sha256(f"{seed}\x00{p}".encode()).digest())
    return set(ordered[:count])


def leaks(prompts: Iterable[tuple[int, str, str | None]]) -> list[tuple[int, int, str, str]]:
    """Rows whose prompt stands in another split too: row, the earlier row, and the two splits.

    Args:
        prompts: row number, prompt and split of each row.
    """
    seen: dict[str, tuple[int, str]] = {}
    leaking = []
    for row, prompt, split in prompts:
        if split is None:
            continue
        first, known = seen.setdefault(same_prompt(prompt), (row, split))
        if known != split:
            leaking.append((row, first, split, known))
    return leaking
