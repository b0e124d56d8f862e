r"""Whether the response's final answer is the reference's: numbers and choices, as people write them.

    score = match_score where the answers are equal, else miss_score

The final answer is what stands behind the last `####` (GSM8K), in the last `\boxed{}`, or behind the last
"answer is" or "answer:", and there the first number, or for choices the first letter that stands alone;
without one of them, the last. `1,234.50`, `$5`, `50%`, `1/2`, `\frac{1}{2}`, `2 1/2`, `-3` and `1e3` are
numbers; 50% is both 50 and 0.5.

Cobbe et al. 2021, arXiv:2110.14168, for GSM8K's form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal

from pydantic import Field

from ppokit.plugin import CheckContext, Component, Example, Options, RewardOutput, Rollout, hookimpl

Kind = Literal["number", "choice", "text"]

_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)")
_CHARACTERS = {0x2212: "-", 0x2013: "-", 0xA0: " ", 0x202F: "", 0x2009: ""} | {
    ord(sign): f" {unicodedata.normalize('NFKC', sign).replace(chr(0x2044), '/')} "
    for sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
}
_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+]?)\s?(?:[$€£¥]\s?)?(?P<inner>[-+]?)"
    rf"(?:(?P<whole>\d+)\s+(?=\d+\s?/\s?\d))?(?P<number>{_UNSIGNED})(?:[eE](?P<power>[-+]?\d{{1,3}}))?"
    rf"(?:\s?/\s?(?P<under>\d+(?:\.\d+)?))?(?P<percent>\s?%)?"
)
_MOST_DIGITS = 300  # no answer has more, and Python refuses to read a few thousand
_BEHIND = re.compile(r"(?:final\s+answer|answer)\s*(?:is|:|=)\s*:?\s*", re.IGNORECASE)
_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-Z])\)?(?![A-Za-z'’])")


def exact_answer(response: str, reference: str, kind: Kind, tolerance: float = 0.0) -> bool:
    """Whether both have the same final answer."""
    if kind == "number":
        given, expected = numbers(*final(response)), numbers(*final(reference))
        if not given or not expected:
            return False
        return _equal(given, expected, Fraction(tolerance).limit_denominator(10**12))
    if kind == "choice":
        chosen = choice(*final(response))
        return chosen is not None and chosen == choice(*final(reference))
    return bool(final(reference)[0].strip()) and _plain(final(response)[0]) == _plain(final(reference)[0])


def final(text: str) -> tuple[str, bool]:
    """The part of a text that holds its final answer, and whether a marker stands before it."""
    if "####" in text:
        behind = text.rpartition("####")[2].strip()
        return (behind.splitlines()[0] if behind else ""), True
    if (boxed := _boxed(text)) is not None:
        return boxed, True
    behind_words = list(_BEHIND.finditer(text))
    if behind_words:
        rest = text[behind_words[-1].end() :]
        return re.split(r"\n|(?<=\w)[.!?](?:\s|$)", rest, maxsplit=1)[0], True
    return text, False


def numbers(text: str, marked: bool) -> frozenset[Fraction]:
    """What a text's answer may mean: 50% is 50 and 0.5; nothing where there is no number.

    Args:
        marked: whether the text is an answer, whose first number counts (behind `=`, if any); else the last.
    """
    plain = text.translate(_CHARACTERS)
    plain = _SHORT_FRACTION.sub(r" \1/\2 ", plain)
    plain = _FRACTION.sub(r" \1/\2 ", plain.replace(r"\$", "$").replace(r"\%", "%").replace(r"{,}", ","))
    plain = plain.replace(r"\,", "").replace(r"\!", "")
    every = list(_NUMBER.finditer(plain.rpartition("=")[2] if marked else plain))
    if not every:
        return frozenset()
    match = every[0 if marked else -1]
    if max(len(match[name] or "") for name in ("number", "whole", "under")) > _MOST_DIGITS:
        return frozenset()
    value = Fraction(match["number"].replace(",", ""))
    if match["power"]:
        value *= Fraction(10) ** int(match["power"])
    if match["under"]:
        under = Fraction(match["under"])
        if under == 0:
            return frozenset()
        value /= under
    if match["whole"]:
        value += int(match["whole"])
    if "-" in (match["sign"], match["inner"]):
        value = -value
    return frozenset({value, value / 100}) if match["percent"] else frozenset({value})


def choice(text: str, marked: bool) -> str | None:
    """A capital letter that stands alone: `B`, `(B)`, `B.`; a small one where the text is no more.

    Args:
        marked: whether the text is an answer, whose first letter counts; else the last.
    """
    letters = _CHOICE.findall(text)
    if letters:
        return str(letters[0 if marked else -1])
    alone = re.fullmatch(r"\W*([a-z])\W*", text)
    return alone[1].upper() if alone else None


def _equal(given: frozenset[Fraction], expected: frozenset[Fraction], tolerance: Fraction) -> bool:
    if len(given) == len(expected):  # both percentages, or neither
        given, expected = frozenset({max(given, key=abs)}), frozenset({max(expected, key=abs)})
    return any(abs(a - b) <= tolerance * abs(b) for a in given for b in expected)


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text).casefold().split())


class ExactAnswer(Options):
    column: str = Field("answer", description="Column that holds the reference's answer.")
    kind: Kind = Field(
        "number",
        description="number: equal in value; choice: the same letter; text: the same words, whatever the "
        "punctuation and case.",
    )
    tolerance: float = Field(0.0, ge=0, lt=1, description="Of numbers: relative difference that is equal.")
    match_score: float = Field(1.0, allow_inf_nan=False, description="Score of a right answer.")
    miss_score: float = Field(0.0, allow_inf_nan=False, description="Score of a wrong one, or of none.")

    def score(self, rollout: Rollout) -> RewardOutput:
        pairs = zip(rollout.responses, rollout.rows, strict=True)
        return RewardOutput.from_values([self._score(text, row[self.column]) for text, row in pairs])

    def _score(self, text: str, given: object) -> float | ValueError:
        reference = "" if given is None else str(given)
        if not exact_answer(reference, reference, self.kind):  # an answer equals itself
            return ValueError(f"its row has no {self.kind} in {self.column!r}: {reference[:60]!r}")
        right = exact_answer(text, reference, self.kind, self.tolerance)
        return self.match_score if right else self.miss_score


def check(options: ExactAnswer, context: CheckContext) -> Iterable[str]:
    yield from context.without_column("column", options.column)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    right = ("18 - 3 = 15. #### 15", "The answer is $15.00.", r"So \boxed{15}")
    examples = [Example(right, ("15 or 16? #### 16", "I do not know."), row={"answer": "#### 15"})]
    return [Component("exact_answer", options=ExactAnswer, check=check, examples=examples)]
