"""Sentiment of the text by VADER's word list, from -1 (negative) to 1 (positive); no model.

    score = s / sqrt(s^2 + 15),   s the sum of the words' valences after VADER's rules

Hutto & Gilbert 2014, "VADER", ICWSM; the package vaderSentiment computes it. English only; a text
without a word of the list scores 0. Differs: none in its numbers; the package goes over the whole text for
each of its words, and here only over the words around it. It rewards words and not meaning: good for a first
run and for tests, not for a product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from heapq import heappop, heappush
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

    class Analyzer(SentimentIntensityAnalyzer):  # type: ignore[misc]
        """The package's, with rules that take time in proportion to the text."""

        @staticmethod
        def _negation_check(valence: float, words: list[str], start: int, i: int) -> Any:
            return SentimentIntensityAnalyzer._negation_check(
                valence, words[max(i - 3, 0) : i], start, min(i, 3)
            )

        @staticmethod
        def _special_idioms_check(valence: float, words: list[str], i: int) -> Any:
            return SentimentIntensityAnalyzer._special_idioms_check(valence, words[i - 3 : i + 3], 3)

        @staticmethod
        def _but_check(words: list[str], valences: list[float]) -> list[float]:
            return weigh_around_but([word.lower() for word in words], valences)

    return Analyzer()


def weigh_around_but(words: Sequence[str], valences: Sequence[float]) -> list[float]:
    """Valences of words halved before the first "but" and half as large again after it, as the package does.

    It goes over the valences as they have become so far, and for each weighs the first that equals it.
    """
    out = list(valences)
    if "but" not in words:
        return out
    but, indices = words.index("but"), defaultdict[float, list[int]](list)
    for index, valence in enumerate(out):
        indices[valence].append(index)  # in order, so a heap
    for index in range(len(out)):
        valence = out[index]
        first = indices[valence][0]
        weighed = valence * (0.5 if first < but else 1.5 if first > but else 1.0)
        if weighed != valence:
            out[first] = weighed
            heappush(indices[weighed], heappop(indices[valence]))
    return out


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
