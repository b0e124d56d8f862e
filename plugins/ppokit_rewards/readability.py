"""How easily a response reads, by the lengths of its sentences and words: from 0 to 1.

    ease = a - b * words / sentences - c * syllables / words, from 0 (hard) to 100 (easy)
    score = ease / 100; with a target, 1 - |ease - target| / 100

English: Flesch 1948, "A new readability yardstick", a = 206.835, b = 1.015, c = 84.6. German: Amstad 1978,
180, 1, 58.5. French: Kandel and Moles 1958, 207, 1.015, 73.6. Spanish: Fernandez-Huerta 1959, 206.84, 1.02,
60. Differs: syllables are groups of vowels, or pyphen's hyphenation where that has more; the ease is clipped
to 0 and 100. A response without a word scores 0.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Literal

from pydantic import Field

from ppokit.plugin import Component, Example, Options, RewardOutput, Rollout, hookimpl

Language = Literal["en", "de", "fr", "es"]
_COEFFICIENTS: dict[Language, tuple[float, float, float]] = {
    "en": (206.835, 1.015, 84.6),
    "de": (180.0, 1.0, 58.5),
    "fr": (207.0, 1.015, 73.6),
    "es": (206.84, 1.02, 60.0),
}
_DICTIONARY = {"en": "en_US", "de": "de_DE", "fr": "fr", "es": "es"}
_LONGEST_WORD = 60  # letters; pyphen keeps every word that it is asked for
_VOWELS = re.compile(r"[aeiouyäöüáéíóúàèùâêîôûëïœæ]+")


def readability(text: str, language: Language) -> float | None:
    """The reading ease, from 0 to 100; None for a text without a word."""
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text)
    if not words:
        return None
    # A run of marks is looked at once, wherever it ends: a response may be nothing else.
    sentences = max(1, len(re.findall(r"(?<![.!?…])[.!?…]++(?=\s|$)", text)))
    a, b, c = _COEFFICIENTS[language]
    ease = a - b * len(words) / sentences - c * sum(syllables(w, language) for w in words) / len(words)
    return min(max(ease, 0.0), 100.0)


def syllables(word: str, language: Language) -> int:
    """Syllables of a word, 1 at least."""
    lower = word.lower()
    by_vowels = len(_VOWELS.findall(lower))
    if language == "en" and by_vowels > 1 and lower.endswith("e") and not lower.endswith(("le", "ee")):
        by_vowels -= 1  # a silent one
    if len(lower) > _LONGEST_WORD:
        return max(1, by_vowels)
    return max(1, by_vowels, len(_hyphenation(language).positions(lower)) + 1)


@cache
def _hyphenation(language: Language) -> Any:
    import pyphen

    return pyphen.Pyphen(lang=_DICTIONARY[language])


class Readability(Options):
    language: Language = Field("en", description="Of the responses.")
    target: float | None = Field(
        None, ge=0, le=100, description="Reading ease that scores 1. Not set: the easier, the better."
    )

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([self._score(text) for text in rollout.responses])

    def _score(self, text: str) -> float:
        ease = readability(text, self.language)
        if ease is None:
            return 0.0
        return ease / 100 if self.target is None else 1 - abs(ease - self.target) / 100


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    easy = "The cat sat on the mat. It was warm. She liked it."
    hard = "Notwithstanding institutional considerations, harmonisation necessitates deliberation."
    return [Component("readability", options=Readability, examples=[Example((easy,), (hard,))])]
