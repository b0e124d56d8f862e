"""Penalty for words that a response must not have: from -1 to 0.

    score = -min(matches, max_count) / max_count

A word matches whatever its case and its form in Unicode (NFKC without what is invisible); as a whole word,
unless the recipe says otherwise.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, model_validator

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    Options,
    RewardOutput,
    Rollout,
    first_line,
    hookimpl,
)

_MOST_MARKS = 30


class BannedOptions(Options):
    words: tuple[str, ...] = Field((), description="Words and phrases.")
    path: str | None = Field(None, description="File with a word or phrase per line; without # lines.")
    whole_words: bool = Field(True, description="Whether a word must stand alone: `ass` not in `class`.")
    max_count: int = Field(1, gt=0, description="Matches from which on the score is -1.")

    @model_validator(mode="after")
    def _has_words(self) -> BannedOptions:
        if not self.words and self.path is None:
            raise ValueError("names no words; expected words or path")
        if any(not normal(word).strip() for word in self.words):
            raise ValueError("words: got an empty one, which every text has")
        return self


class Banned:
    def __init__(self, options: BannedOptions, context: BuildContext) -> None:
        self.options = options
        self.pattern = pattern(all_words(options), whole_words=options.whole_words)

    def score(self, rollout: Rollout) -> RewardOutput:
        most = self.options.max_count
        counts = [len(self.pattern.findall(normal(text))) for text in rollout.responses]
        return RewardOutput.from_values([-min(count, most) / most for count in counts])


def normal(text: str) -> str:
    """A text's letters without the differences that one reads over."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", _readable(text)).casefold()


def _readable(text: str) -> str:
    """A text without invisible characters, and with 30 marks on a letter at most, as in Unicode's annex 15.

    Thousands of marks are sorted for seconds.
    """
    kept: list[str] = []
    marks = 0
    for character in text:
        if unicodedata.category(character) == "Cf":  # soft hyphens, zero-width spaces and the like
            continue
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def all_words(options: BannedOptions) -> list[str]:
    """Those of the recipe and of the file."""
    lines = [] if options.path is None else _lines(options.path)
    return [*options.words, *lines]


def pattern(words: Iterable[str], *, whole_words: bool) -> re.Pattern[str]:
    """What finds any of them; longer ones first, so that a phrase counts once."""
    ordered = sorted({" ".join(normal(word).split()) for word in words}, key=len, reverse=True)
    either = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in ordered)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)" if whole_words else f"(?:{either})")


def _lines(path: str) -> list[str]:
    lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if normal(line).strip() and not line.startswith("#")]


def check(options: BannedOptions, context: CheckContext) -> Iterable[str]:
    if options.path is None:
        return
    if not Path(options.path).expanduser().is_file():
        yield f"path: there is no file {options.path}"
        return
    try:
        if not all_words(options):
            yield f"path: {options.path} has no words"
    except (OSError, UnicodeError) as error:
        yield f"path: {options.path} cannot be read as UTF-8: {first_line(error)}"


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    waivers = {"names_examples": "it is a penalty: a response that says nothing has no banned word"}
    return [Component("banned", Banned, options=BannedOptions, check=check, waivers=waivers)]
