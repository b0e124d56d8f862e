"""Regular expressions as a reward: the three modes, the flags, and patterns that are none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ppokit_rewards.pattern import Pattern, PatternOptions


def scores(context, make_rollout, responses, **options) -> list[float]:
    output = Pattern(PatternOptions(**options), context).score(make_rollout(responses))
    assert output.outcomes == ("scored",) * len(responses)
    return output.scores.tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pattern": "a+"}, [1, 1, 0]),
        ({"pattern": "a+", "mode": "fullmatch"}, [1, 0, 0]),
        ({"pattern": "a", "mode": "count"}, [2, 3, 0]),
        ({"pattern": "a", "mode": "count", "max_count": 2}, [2, 2, 0]),
        ({"pattern": "aa", "mode": "count"}, [1, 1, 0]),  # no overlaps
        ({"pattern": "a", "match_score": -1, "miss_score": 0.5}, [-1, -1, 0.5]),
        ({"pattern": "a", "mode": "count", "match_score": 0.5, "miss_score": -2}, [1, 1.5, -2]),
    ],
)
def test_modes(context, make_rollout, options, expected) -> None:
    assert scores(context, make_rollout, ["aa", "aa ba", ""], **options) == expected


@pytest.mark.parametrize(
    ("pattern", "flag", "text"),
    [("HI", "ignore_case", "hi"), ("^b$", "multiline", "a\nb\nc"), ("a.c", "dotall", "a\nc")],
)
def test_flags(context, make_rollout, pattern, flag, text) -> None:
    assert scores(context, make_rollout, [text], pattern=pattern) == [0]
    assert scores(context, make_rollout, [text], pattern=pattern, flags=[flag]) == [1]


def test_flags_add_up(context, make_rollout) -> None:
    assert scores(context, make_rollout, ["x\nB"], pattern="^b", flags=["ignore_case", "multiline"]) == [1]


def test_an_invalid_expression_names_the_position() -> None:
    with pytest.raises(ValidationError, match=r"not a regular expression: .* at position 3 of 'abc\(d'"):
        PatternOptions(pattern="abc(d")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"pattern": ""},
        {"pattern": "a", "flags": ["verbose"]},
        {"pattern": "a", "max_count": 2},
        {"pattern": "a", "mode": "match"},
    ],
)
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        PatternOptions(**wrong)
