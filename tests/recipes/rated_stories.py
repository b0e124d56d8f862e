"""Files of ratings and pairs in which one kind of response is better, for reward models to learn."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

GOOD = ("The dog was happy and they played.", "She smiled at her mom and said thank you.")
BAD = ("no no no no no", "the the the of of")


def save_ratings(path: Path) -> Path:
    """60 responses to 30 prompts by two raters: a good and a bad answer per prompt, and a little noise."""
    rng = random.Random(0)
    rows = [
        (f"Story number {i}.", text, level + rng.randint(-1, 1), rater)
        for i in range(30)
        for text, level in ((rng.choice(GOOD), 8), (rng.choice(BAD), 2))
        for rater in ("ann", "ben")
    ]
    return _save(path, ("prompt", "response", "rating", "rater"), rows)


def save_pairs(path: Path) -> Path:
    """48 pairs of a good and a bad answer, by one rater."""
    rng = random.Random(0)
    rows = [(f"Story number {i}.", rng.choice(GOOD), rng.choice(BAD), "ann") for i in range(48)]
    return _save(path, ("prompt", "chosen", "rejected", "rater"), rows)


def _save(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path
