"""Files of ratings and pairs in which one kind of response is better, for reward models to learn."""

from __future__ import annotations

import csv
import random
from pathlib import Path

GOOD = ("The dog was happy and they played.", "She smiled at her mom and said thank you.")
BAD = ("no no no no no", "the the the of of")


def save_ratings(path: Path) -> Path:
    """60 responses to 30 prompts by two raters: a good and a bad answer per prompt, and a little noise."""
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["prompt", "response", "rating", "rater"])
        for i in range(30):
            for text, level in ((rng.choice(GOOD), 8), (rng.choice(BAD), 2)):
                for rater in ("ann", "ben"):
                    out.writerow([f"Story number {i}.", text, level + rng.randint(-1, 1), rater])
    return path


def save_pairs(path: Path) -> Path:
    """48 pairs of a good and a bad answer, by one rater."""
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["prompt", "chosen", "rejected", "rater"])
        for i in range(48):
            out.writerow([f"Story number {i}.", rng.choice(GOOD), rng.choice(BAD), "ann"])
    return path
