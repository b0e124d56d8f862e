"""Rewards that compare: by a metric of `evaluate`, by meaning, and with the other responses of a group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaModel

from ppokit.plugin import BuildContext, CheckContext, PluginError
from ppokit_rewards import diversity, metric, similarity
from small_models import save_tiny

ROWS = [{"answer": "the cat sat down", "other": None}, {"answer": None, "other": None}]
RESPONSES = ["the cat sat", "a dog"]


class TestMetric:
    def build(self, context: BuildContext, **options: Any) -> metric.MetricReward:
        return metric.MetricReward(metric.MetricRewardOptions(**options), context)

    def test_each_response_against_its_row(self, context: BuildContext, make_rollout: Any) -> None:
        """F of 3 shared of 3 and 4 words; the second row has nothing to compare with."""
        for reference in ("answer", ["other", "answer"]):
            reward = self.build(context, metric="rouge", key="rouge1", reference=reference)
            output = reward.score(make_rollout(RESPONSES, rows=ROWS))
            assert output.outcomes == ("scored", "failed")
            assert output.scores.tolist() == pytest.approx([6 / 7, 0.0])
            assert output.reason(1) == f"ValueError: its row has nothing in {reference!r}"

    def test_of_several_numbers_one_is_chosen(self, context: BuildContext, make_rollout: Any) -> None:
        rollout = make_rollout(RESPONSES, rows=[ROWS[0]] * 2)
        for key, words in ((None, "several numbers"), ("rouge9", "no number 'rouge9' per response")):
            reward = self.build(context, metric="rouge", reference="answer", key=key)
            message = (
                rf"^key: the metric 'rouge' has {words}; expected one of rouge1, rouge2, rougeL, rougeLsum"
            )
            with pytest.raises(PluginError, match=message):
                reward.score(rollout)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metric": "f1", "reference": "answer"}, "metric: f1 is a number of a whole set of labels"),
            ({"metric": "rouge", "reference": "answer"}, "key: rouge has several numbers; expected rouge1"),
            ({"metric": "chrf", "reference": ["answer", "x"]}, "reference 'x' is no column of the prompts"),
            ({"metric": "./none"}, "metric: there is no file none/none.py"),
        ],
    )
    def test_what_validation_says(self, options: dict[str, Any], message: str) -> None:
        context = CheckContext(columns=("prompt", "answer"))
        (problem,) = metric.check(metric.MetricRewardOptions(**options), context)
        assert problem.startswith(message)


class TestSimilarity:
    def test_cosines(self, context: BuildContext, make_rollout: Any, tmp_path: Path) -> None:
        """A text is as near as can be to itself, whatever the encoder; the best of several counts."""
        folder = save_tiny(
            tmp_path, RobertaModel, {"pad_token": "[PAD]"}, max_position_embeddings=64, pad_token_id=0
        )
        options = similarity.SimilarityOptions(encoder=str(folder), reference=["answer", "other"])
        reward = similarity.Similarity(options, context)
        rows = [
            {"answer": "a b", "other": None},
            {"answer": "b", "other": "a b"},
            {"answer": "a b", "other": "b"},
            {"answer": "b", "other": None},
            {"answer": " ", "other": None},
            {"answer": ["b", None, "a b"], "other": None},
            {"answer": [], "other": None},
        ]
        output = reward.score(make_rollout(["a b", "a b", "", *["a b"] * 4], rows=rows))
        vectors = reward.encoder(["a b", "b"])
        expected = [1.0, 1.0, -1.0, float(vectors[0] @ vectors[1]), 0.0, 1.0, 0.0]
        torch.testing.assert_close(output.scores, torch.tensor(expected))
        assert output.outcomes == (*["scored"] * 4, "failed", "scored", "failed")
        assert output.reason(4) == "ValueError: its row has no text in ['answer', 'other']"

    def test_a_column_that_is_not_there(self) -> None:
        options = similarity.SimilarityOptions(encoder="any", reference="x")
        assert list(similarity.check(options, CheckContext(columns=("prompt",)))) == [
            "reference 'x' is no column of the prompts (prompt)"
        ]


class TestDiversity:
    def test_by_hand(self, make_rollout: Any) -> None:
        """Pairs {a b, b c}, {b c, c d} and {x y}: 1 of 3 shared by the first two, none with the third."""
        texts = ["a b c", "B, c d!", "x y", "one", "alone here"]
        rollout = replace(make_rollout(texts), group_ids=torch.tensor([0, 0, 0, 0, 1]))
        output = diversity.Diversity().score(rollout)
        first = 1 - (1 / 3) / 3
        torch.testing.assert_close(output.scores, torch.tensor([first, first, 1.0, 0.0, 0.0]))
        assert output.outcomes == ("scored",) * 4 + ("abstained",)

    def test_equal_responses_are_not_diverse(self, make_rollout: Any) -> None:
        rollout = replace(make_rollout(["a b", "a b"]), group_ids=torch.tensor([0, 0]))
        assert diversity.Diversity().score(rollout).scores.tolist() == [0.0, 0.0]

    def test_one_response_per_prompt(self) -> None:
        (problem,) = diversity.check(diversity.Diversity(), CheckContext(columns=(), responses_per_prompt=1))
        assert "expected rollout.responses_per_prompt of at least 2" in problem
