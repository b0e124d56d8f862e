"""What a judge answered: the score or the winner that its text names."""

from __future__ import annotations

import json
import re
from typing import Any

from ppokit_rewards.service import ServiceError

_NUMBER = r"-?(?:\d+(?:[.,]\d+)?|\.\d+)(?:e[-+]?\d+)?"
_OF = rf"\s{{0,3}}(?:/|out\s+of)\s{{0,3}}({_NUMBER})"
_NO_RANGE = r"(?![\d.,]*\d|\s{0,3}(?:[-–]|to\b)\s{0,3}\d|-[a-z])"
_BETWEEN = r"(?:\s{1,3}(?:is|of|it|this|the|for|response|answer|would|be|as|at|an?)\b){0,6}"
_SCORE = re.compile(
    rf"(?:score|\brating){_BETWEEN}(?:\s{{0,3}}\([^()]{{0,40}}\))?\W{{0,12}}?({_NUMBER}){_NO_RANGE}(?:{_OF})?"
    rf"|(?<![\d.])({_NUMBER}){_OF}|\[\[({_NUMBER})\]\]",
    re.IGNORECASE,
)
_READ = 10_000  # characters at the end of an answer that a score is looked for in
_VERDICT = r"(?:(?:response|assistant|answer)\s+)?(?:a\s+)?(tie|A|B)\b"
_WINNER = re.compile(rf"winner(?:\s+is)?\W{{0,12}}?{_VERDICT}", re.IGNORECASE)
_VERDICT_ALONE = re.compile(rf"\W*{_VERDICT}\W*", re.IGNORECASE)
_POINTS = {"a": 1.0, "tie": 0.5, "b": 0.0}


def content(answer: Any) -> str:
    """The text of a chat completion.

    Raises:
        ServiceError: there is none.
    """
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ServiceError(f"the judge answered {repr(answer)[:80]}; expected a chat completion") from error
    if not isinstance(text, str) or not text.strip():
        raise ServiceError("the judge answered nothing")
    if choice.get("finish_reason") == "length":  # what it says until then may name another score
        raise ServiceError("the judge's answer was cut at max_tokens")
    return text.rpartition("</think>")[2]


def score(answer: str, high: float = 10.0) -> float:
    """The score that a judge's answer gives.

    Args:
        high: of the scale, which an answer such as 7/10 must have.

    Raises:
        ServiceError: it gives none, or one of another scale.
    """
    answer = answer[-_READ:]
    given = _last_of(answer, "score")
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(str(given))  # of an integer that is too large for it: inf
    if isinstance(given, str):
        text = f"score: {given}"
    elif given is None:
        text = f"score: {answer}" if re.fullmatch(r"\s*-?\d+(?:\.\d+)?\s*", answer) else answer
    else:
        text = ""
    matches = list(_SCORE.finditer(text))
    if not matches:
        raise ServiceError(f"the judge gave no score: {answer[:80]!r}")
    named, named_of, share, share_of, bracketed = matches[-1].groups()
    number, scale = named or share or bracketed, named_of or share_of
    if scale is not None and _float(scale) != high:
        raise ServiceError(f"the judge scored {number[:20]} of {scale[:20]}; expected a score up to {high:g}")
    return _float(number)


def winner(answer: str) -> float:
    """1 where A won, 0.5 for a tie, 0 where B won.

    Raises:
        ServiceError: it names none.
    """
    answer = answer[-_READ:]
    given = _last_of(answer, "winner")
    matches = [] if isinstance(given, str) else list(_WINNER.finditer(answer))
    match = matches[-1] if matches else _VERDICT_ALONE.fullmatch(given if isinstance(given, str) else answer)
    if match is None:
        raise ServiceError(f"the judge named no winner: {answer[:80]!r}")
    return _POINTS[match[1].lower()]


def _float(number: str) -> float:
    return float(number.replace(",", "."))


def _last_of(answer: str, key: str) -> Any:
    """What the last JSON object in an answer that has a key has under it; None without one."""
    decoder, start = json.JSONDecoder(), answer.find("{")
    result: Any = None
    while start >= 0:
        try:
            value, end = decoder.raw_decode(answer, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            result = value[key] if isinstance(value, dict) and key in value else result
        start = answer.find("{", end)
    return result
