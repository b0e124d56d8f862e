"""The prompts that every system is timed on, some in an environment that has no ppokit."""

from __future__ import annotations

import random

WORDS = [
    *("the", "movie", "was", "about", "a", "man", "who", "went", "to", "sea"),
    *("and", "found", "an", "island", "with", "strange", "people", "on", "it", "while"),
    *("his", "wife", "waited", "at", "home", "for", "many", "long", "years"),
]


def random_prompts(count: int) -> list[str]:
    """The same word salad for every system."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(12, 60))) for _ in range(count)]
