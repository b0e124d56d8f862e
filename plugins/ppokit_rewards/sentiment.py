"""Sentiment of the text by VADER's word list, from -1 (negative) to 1 (positive); no model.

    score = s / sqrt(s^2 + 15),   s the sum of the words' valences after VADER's rules

Hutto & Gilbert 2014, "VADER", ICWSM; the package vaderSentiment computes it. English only; a text
without a word of the list scores 0. Differs: none. It rewards words and not meaning: good for a
first run and for tests, not for a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from ppokit.plugin import CheckContext, Component, Example, Options, RewardOutput, Rollout, hookimpl


def sentiment(texts: Sequence[str]) -> list[float]:
    """VADER's compound score of each text, in [-1, 1]."""
    analyzer = _analyzer()
    return [float(analyzer.polarity_scores(text)["compound"]) for text in texts]


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


class Sentiment(Options):
    of: Literal["response", "prompt_and_response"] = Field(
        "response",
        description="What is scored: the response alone, or the prompt, a space, and the response.",
    )

    def score(self, rollout: Rollout) -> RewardOutput:
        texts = rollout.responses
        if self.of == "prompt_and_response":
            texts = [f"{p} {r}" for p, r in zip(rollout.prompts, texts, strict=True)]
        return RewardOutput.from_values(sentiment(texts))


def check(options: Sentiment, context: CheckContext) -> Iterable[str]:
    if find_spec("vaderSentiment") is None:
        yield "the package vaderSentiment is not installed: pip install 'ppokit[demo]'"


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    examples = [
        Example(
            ("I love this wonderful day.", "It is good."), ("I hate this.", "Tom went home."), "How is it?"
        )
    ]
    return [Component("sentiment", options=Sentiment, check=check, examples=examples)]
