"""Whether an advert has the facts that it was given, and whether it has others.

A prompt is a line of facts, `name: The Copper Kettle; kind: tea room; open: yes`. A fact counts by the words
of its value; where that says only whether something is so (yes, no, none), by those of its key.
"""

from __future__ import annotations

import re

_WHETHER = ("yes", "no", "none")
_SMALL = re.compile("an?|and|at|by|for|from|into?|is|no|of|on|or|than|the|to|with")


def covered(prompts: list[str], responses: list[str]) -> list[float]:
    """Mean over the facts of the share of their words that the response has, from 0 to 1."""
    return [
        _covered(facts(prompt), set(words(text))) for prompt, text in zip(prompts, responses, strict=True)
    ]


def invented(prompts: list[str], responses: list[str]) -> list[float]:
    """Minus a third for each number or name that the facts do not have, down to -1."""
    return [
        -min(1.0, len(_names_and_numbers(text) - set(words(prompt))) / 3)
        for prompt, text in zip(prompts, responses, strict=True)
    ]


def facts(prompt: str) -> list[list[str]]:
    """The words by which each fact is recognised."""
    pairs = [fact.partition(":")[::2] for fact in prompt.split(";") if ":" in fact]
    recognised = [words(key if value.strip().lower() in _WHETHER else value) for key, value in pairs]
    return [[word for word in own if not _SMALL.fullmatch(word)] or own for own in recognised if own]


def words(text: str) -> list[str]:
    """In lower case; of camelCase the parts."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return re.findall(r"[^\W_]+", parted.lower())


def _covered(wanted: list[list[str]], got: set[str]) -> float:
    if not wanted:
        return 0.0
    return sum(sum(word in got for word in own) / len(own) for own in wanted) / len(wanted)


def _names_and_numbers(text: str) -> set[str]:
    """Words with a digit, and words in capitals that stand within a sentence."""
    names = re.findall(r"(?<=[a-z0-9,;&] )[A-Z]\w+", text)
    return {word for name in names for word in words(name)} | set(re.findall(r"\b\d\w*", text.lower()))
