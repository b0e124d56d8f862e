r"""Whether, or how often, the response matches a regular expression.

    search, fullmatch:  score = match_score if the pattern matches, else miss_score
    count:              score = match_score * min(matches, max_count), or miss_score without a match

Python's `re`, on the response alone; `search` finds the pattern anywhere, `fullmatch` needs the whole
response, `count` counts matches that do not overlap. For text that must look a certain way: an answer
in <answer> tags, a greeting, no e-mail address (match_score -1).
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ppokit.plugin import BuildContext, Component, Example, Options, RewardOutput, Rollout, hookimpl

Mode = Literal["search", "fullmatch", "count"]
Flag = Literal["ignore_case", "multiline", "dotall"]
_FLAGS = {"ignore_case": re.IGNORECASE, "multiline": re.MULTILINE, "dotall": re.DOTALL}


def pattern(
    text: str,
    regex: re.Pattern[str],
    *,
    mode: Mode,
    match_score: float = 1.0,
    miss_score: float = 0.0,
    max_count: int | None = None,
) -> float:
    """Score of one text."""
    if mode == "count":
        count = sum(1 for _ in regex.finditer(text))
        counted = count if max_count is None else min(count, max_count)
        return match_score * counted if count else miss_score
    match = regex.search(text) if mode == "search" else regex.fullmatch(text)
    return match_score if match else miss_score


class PatternOptions(Options):
    pattern: str = Field(min_length=1, description="A regular expression, in the syntax of Python's re.")
    mode: Mode = Field(
        "search",
        description="search: anywhere in the response; fullmatch: the whole response; count: each match "
        "earns match_score.",
    )
    match_score: float = Field(1.0, allow_inf_nan=False, description="Score of a match; may be negative.")
    miss_score: float = Field(0.0, allow_inf_nan=False, description="Score of a response without any match.")
    max_count: int | None = Field(
        None, ge=1, description="In mode count: matches beyond this many earn nothing. Not set: no limit."
    )
    flags: tuple[Flag, ...] = Field(
        (),
        description="Any of ignore_case, multiline (^ and $ at each line), dotall (a dot takes newlines).",
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            position = "" if error.pos is None else f" at position {error.pos}"
            raise ValueError(f"not a regular expression: {error.msg}{position} of {value!r}") from None
        return value

    @model_validator(mode="after")
    def _max_count_counts(self) -> PatternOptions:
        if self.max_count is not None and self.mode != "count":
            raise ValueError(f"max_count has no effect in mode {self.mode}; use mode count, or leave it out")
        return self


class Pattern:
    def __init__(self, options: PatternOptions, context: BuildContext) -> None:
        self.options = options
        flags = re.RegexFlag(0)
        for name in options.flags:
            flags |= _FLAGS[name]
        self.regex = re.compile(options.pattern, flags)

    def score(self, rollout: Rollout) -> RewardOutput:
        options = self.options
        return RewardOutput.from_values(
            [
                pattern(
                    text,
                    self.regex,
                    mode=options.mode,
                    match_score=options.match_score,
                    miss_score=options.miss_score,
                    max_count=options.max_count,
                )
                for text in rollout.responses
            ]
        )


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    examples = [
        Example(
            ("<answer>42</answer>", "So: <answer>no</answer>"),
            ("42", "<answer></answer>"),
            "What is 6 times 7?",
            options={"pattern": "<answer>.+</answer>"},
        )
    ]
    return [Component("pattern", Pattern, options=PatternOptions, examples=examples)]
