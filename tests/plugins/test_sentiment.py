"""Sentiment by VADER: what it scores, and what is said where it is not installed."""

from __future__ import annotations

import random
import sys

import pytest
import torch

pytest.importorskip("vaderSentiment")

import ppokit_rewards.sentiment as module
from ppokit_rewards.sentiment import Sentiment, check, sentiment


def test_numbers_of_the_package_itself() -> None:
    """The first two are in vaderSentiment's README."""
    scores = sentiment(["VADER is smart, handsome, and funny.", "Today SUX!", "the table", ""])
    assert scores == pytest.approx([0.8316, -0.5461, 0.0, 0.0])


def test_any_text_scores_as_by_the_package() -> None:
    """Words of its list among those that its rules look for around them."""
    from vaderSentiment.vaderSentiment import SPECIAL_CASES, SentimentIntensityAnalyzer

    package, draw = SentimentIntensityAnalyzer(), random.Random(0)
    rules = "but But no NO nor or at least very never so this without doubt kind of sort isn't ! ? \U0001f498"
    words = [*draw.sample(list(package.lexicon), 30), *rules.split(), *SPECIAL_CASES, "GOOD", "the", "table"]
    texts = [" ".join(draw.choices(words, k=draw.randint(0, 30))) for _ in range(500)]
    assert sentiment(texts) == [package.polarity_scores(text)["compound"] for text in texts]


def test_twice_the_text_takes_twice_the_calls() -> None:
    def calls(text: str) -> int:
        count = 0

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            sentiment([text])
        finally:
            sys.setprofile(None)
        return count

    sentiment(["the list is read"])
    for text in ("the good ", "the good but bad "):
        assert calls(text * 400) < 2.1 * calls(text * 200)


def test_one_score_a_response_in_order(make_rollout) -> None:
    output = Sentiment().score(make_rollout(["I love it", "I hate it", ""]))
    assert output.scores.dtype == torch.float32
    assert output.scores.shape == (3,)
    assert output.scores[0] > 0 > output.scores[1]
    assert output.scores[2] == 0
    assert output.outcomes == ("scored",) * 3


def test_text_says_whether_the_prompt_counts(make_rollout) -> None:
    rollout = make_rollout(["the table"], prompts=["I love"])
    assert Sentiment().score(rollout).scores.item() == 0
    both = Sentiment(of="prompt_and_response").score(rollout)
    assert both.scores.item() == pytest.approx(sentiment(["I love the table"])[0])
    assert both.scores.item() > 0


def test_an_empty_share_of_the_rollout(make_rollout) -> None:
    assert Sentiment().score(make_rollout([])).scores.shape == (0,)


def test_a_missing_extra_is_a_problem(monkeypatch, unknown_columns) -> None:
    assert list(check(Sentiment(), unknown_columns)) == []
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (problem,) = check(Sentiment(), unknown_columns)
    assert "pip install 'ppokit[demo]'" in problem
