r"""Whether the response's final answer is the reference's: numbers and choices, as people write them.

    score = match_score where the answers are equal, else miss_score

The final answer is what stands behind the last `####` (GSM8K), in the last `\boxed{}`, or behind the last
"answer is" or "answer:", and there the first number, or for choices the first letter that stands alone;
without one of them, the last. Of `3 + 4 = 7` it is what stands behind `=`, but not where that is a reason:
`7, because 7 * 2 = 14`. `1,234.50`, `1,23,456`, `$5`, `50%`, `1/2`, `\frac{1}{2}`, `2 1/2`, `-3`, `1e3`,
`2 \times 10^3` and `2.5 million` are numbers, and an exponent, as in `m^2`, is none, nor are `\sqrt{2}` and
`2\pi`; 50% is both 50 and 0.5.

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
from ppokit_rewards.banned import normal

Kind = Literal["number", "choice", "text"]

_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)")
_CHARACTERS = (
    {0x2212: "-", 0x2013: "-", 0x202F: "", 0x2009: "", 0x2044: "/", 0x2215: "/"}
    | dict.fromkeys([0xA3, 0xA5, *range(0x20A0, 0x20C1)], "$")  # pound, yen, and all currencies' block
    | {
        ord(sign): f" {unicodedata.normalize('NFKC', sign).replace(chr(0x2044), '/')} "
        for sign in "½⅓⅔¼¾⅐⅑⅒⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
    }
)
_BETWEEN_THOUSANDS = re.compile(r"(?<=\d)['’_\xa0](?=\d{3}(?!\d))")
_EMPHASIS = re.compile(r"(?<!\w)_+|_+(?!\w)")
_POWER_OF_TEN = re.compile(
    r"((?<=\d)\s?(?:\\times|\\cdot|[x×·*])\s?)?(?<![\d.,])10(?:\s?\^\s?\{?([-+]?\d{1,3})\}?|([⁻⁺]?[⁰¹²³⁴-⁹]{1,3}))"
)
_UNSIGNED = r"(?:\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_FACTORS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER = re.compile(
    r"(?P<root>(?:\\sqrt\s?[\[{]|√)\(?\s?)?"
    rf"(?<![\w.^])(?<!\^\{{)(?P<sign>[-+]?)\s?(?:[A-Z]{{0,3}}\$\s?)?(?P<inner>[-+]?)"
    rf"(?:(?P<whole>\d+)\s+(?=\d+\s?/\s?\d))?(?P<number>{_UNSIGNED})(?:[eE](?P<power>[-+]?\d{{1,3}}))?"
    rf"(?:\s?/\s?(?P<under>-?\d+(?:\.\d+)?))?(?:(?P<percent>\s?(?:%|per\s?cent\b))"
    rf"|\s?(?P<factor>(?i:{'|'.join(_FACTORS)}))\b"
    r"|(?P<irrational>\s?(?:\\cdot|\\times|[*·×])?\s?(?:\\?pi\b|\\sqrt|[√π])))?"
)
_APART = re.compile(r"(?!(?<!\w)-\.?\d|(?<=\d)[.,]\d)[^\w\s]")
_LATEX_TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it))\s?\{([^{}]*)\}")
_MOST_DIGITS = 300  # no answer has more, and Python refuses to read a few thousand
_BEHIND = re.compile(r"(?:final\s+answer|answer)\s*(?:is|:|=)\s*:?\s*", re.IGNORECASE)
_NO_ANSWER = re.compile(r"answer\s+(?:is\s+not|isn['’]t)\s+\S+", re.IGNORECASE)
_REASON = re.compile(r"[.,;:]\s|\([^()]*=|\b(?:because|since)\b")
_CHOICE = re.compile(
    r"(?<![^\W_])(?<!\w-)(?!I\s+[a-z])(?:\(?([A-Z])(?![^\W_]|['’+#]|-\w)|(?:\(|(?<!\S))([a-z])\))"
)


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
    words = _plain(final(reference)[0])
    return bool(words) and _plain(final(response)[0]) == words


def final(text: str) -> tuple[str, bool]:
    """The part of a text that holds its final answer, and whether a marker stands before it."""
    if "####" in text:
        behind = text.rpartition("####")[2].strip()
        return (behind.splitlines()[0] if behind else ""), True
    if (boxed := _boxed(text)) is not None:
        return boxed, True
    text = _NO_ANSWER.sub("", text)
    behind_words = list(_BEHIND.finditer(text))
    if behind_words:
        rest = text[behind_words[-1].end() :]
        return re.split(r"\n|(?<=\w)[.!?](?:\s|$)", rest, maxsplit=1)[0], True
    return text, False


def numbers(text: str, marked: bool) -> frozenset[Fraction]:
    """What a text's answer may mean: 50% is 50 and 0.5; nothing where there is no number.

    Args:
        marked: whether the text is an answer, whose first number counts (behind its `=`, if any); else the
            last.
    """
    plain = _EMPHASIS.sub(" ", _BETWEEN_THOUSANDS.sub("", text).translate(_CHARACTERS))
    plain = _SHORT_FRACTION.sub(r" \1/\2 ", plain)
    plain = _FRACTION.sub(r" \1/\2 ", plain.replace(r"\$", "$").replace(r"\%", "%").replace(r"{,}", ","))
    plain = _POWER_OF_TEN.sub(_with_e, plain.replace(r"\,", "").replace(r"\!", ""))
    every = list(_NUMBER.finditer(_without_reason(plain).rpartition("=")[2])) if marked else []
    every = every or list(_NUMBER.finditer(plain))  # also of `5 = x`
    if not every:
        return frozenset()
    match = every[0 if marked else -1]
    if match["root"] or match["irrational"]:
        return frozenset()
    if max(len(match[name] or "") for name in ("number", "whole", "under")) > _MOST_DIGITS:
        return frozenset()
    value = Fraction(match["number"].replace(",", ""))
    if match["power"]:
        value *= Fraction(10) ** int(match["power"])
    if match["factor"]:
        value *= _FACTORS[match["factor"].lower()]
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
    letters = [capital or small.upper() for capital, small in _CHOICE.findall(text)]
    if letters:
        return str(letters[0 if marked else -1])
    alone = re.fullmatch(r"\W*([a-z])\W*", text)
    return alone[1].upper() if alone else None


def _without_reason(text: str) -> str:
    """An answer as far as its first number and what is computed with it: not why it is right."""
    digit = re.search(r"\d", text)
    reason = _REASON.search(text, digit.end()) if digit else None
    return text[: reason.start()] if reason else text


def _with_e(power: re.Match[str]) -> str:
    digits = power[2] or unicodedata.normalize("NFKC", power[3]).translate(_CHARACTERS)
    return f"{'' if power[1] else '1'}e{digits}"


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
    """Words without punctuation; the sign of a number, and what stands between its digits, belong to it."""
    return " ".join(_APART.sub(_space_for_punctuation, normal(_LATEX_TEXT.sub(r"\1", text))).split())


def _space_for_punctuation(character: re.Match[str]) -> str:
    category = unicodedata.category(character[0])
    return " " if category.startswith("P") or category == "Sk" else character[0]  # Sk: `


class ExactAnswer(Options):
    column: str = Field(
        "answer", description="Column that holds the reference's answer, or a list of which any is right."
    )
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
        every = [
            str(one) for one in (given if isinstance(given, list | tuple) else [given]) if one is not None
        ]
        usable = [one for one in every if exact_answer(one, one, self.kind)]  # an answer equals itself
        if not usable:
            shown = ", ".join(every)[:60]
            return ValueError(f"its row has no {self.kind} in {self.column!r}: {shown!r}")
        right = any(exact_answer(text, one, self.kind, self.tolerance) for one in usable)
        return self.match_score if right else self.miss_score


def check(options: ExactAnswer, context: CheckContext) -> Iterable[str]:
    yield from context.without_column("column", options.column)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    right = ("18 - 3 = 15. #### 15", "The answer is $15.00.", r"So \boxed{15}")
    examples = [Example(right, ("15 or 16? #### 16", "I do not know."), row={"answer": "#### 15"})]
    return [Component("exact_answer", options=ExactAnswer, check=check, examples=examples)]
