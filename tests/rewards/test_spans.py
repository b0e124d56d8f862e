"""Scores of characters become scores of the tokens that have them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from components import built
from ppokit.errors import PluginError
from ppokit.plugin import RewardOutput, Rollout, Scored, Span
from ppokit.plugin.scoring import RewardContext
from ppokit.rewards.scorer import Scorer
from ppokit.rewards.spans import token_ends, with_token_scores
from rollouts import make_rollout, single_process

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A token per byte."""
    bytes_ = Tokenizer(models.BPE({c: i for i, c in enumerate(ALPHABET)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_)


def rollout_of(tokenizer: Any, *texts: str) -> Rollout:
    ids = [tokenizer(text)["input_ids"] for text in texts]
    rollout = make_rollout([tokenizer("Hi. ")["input_ids"]] * len(texts), ids)
    return replace(rollout, responses=list(texts))


def test_a_character_of_several_tokens_belongs_to_the_last(tokenizer: Any) -> None:
    text = "aé😀b"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 1 + 2 + 4 + 1
    assert token_ends(tokenizer, [], ids, text) == [1, 1, 2, 2, 2, 2, 3, 4]


def test_the_tokens_of_a_span_share_its_score(tokenizer: Any) -> None:
    rollout = rollout_of(tokenizer, "abcd", "ab")
    output = RewardOutput.of_spans([[Span(1, 3, -1.0), Span(2, 4, 0.5)], []])
    scores = with_token_scores(output, rollout, tokenizer, "x").token_scores
    assert scores is not None
    assert scores.tolist() == [[0.0, -0.5, -0.25, 0.25], [0.0] * 4]


def test_what_the_policy_did_not_write_gets_nothing(tokenizer: Any) -> None:
    rollout = rollout_of(tokenizer, "abcd")
    rollout = replace(rollout, loss_mask=torch.tensor([[True, False, False, True]]))
    scores = with_token_scores(
        RewardOutput.of_spans([[Span(0, 2, 1.0)]]), rollout, tokenizer, "x"
    ).token_scores
    assert scores is not None
    assert scores.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    with pytest.raises(PluginError, match="where the policy wrote no token"):
        with_token_scores(RewardOutput.of_spans([[Span(1, 3, 1.0)]]), rollout, tokenizer, "x")


@pytest.mark.parametrize(
    "span", [Span(-1, 2, 1.0), Span(2, 2, 1.0), Span(0, 9, 1.0), Span(0, 1, float("nan"))]
)
def test_what_is_no_span_is_refused(tokenizer: Any, span: Span) -> None:
    with pytest.raises(PluginError, match="expected 0 <= start < end <= 4"):
        with_token_scores(RewardOutput.of_spans([[span]]), rollout_of(tokenizer, "abcd"), tokenizer, "x")


def test_outside_a_run_every_token_has_the_same_part(tokenizer: Any) -> None:
    output = RewardOutput.of_spans([[Span(1, 3, 2.0)]])
    scores = with_token_scores(output, rollout_of(tokenizer, "abcd"), None, "x").token_scores
    assert scores is not None
    assert scores.tolist() == [[0.5] * 4]


class Batched:
    def score(self, rollout: Rollout) -> RewardOutput:
        values = RewardOutput.from_values([1.0] * len(rollout))
        return replace(values, spans=[[Span(0, 1, -1.0)] for _ in rollout.responses])


class OneAtATime:
    async def score_one(self, sample: Any) -> Scored:
        return Scored(spans=[Span(1, 2, -1.0)]) if sample.response == "ab" else Scored(0.5)


@pytest.mark.parametrize(
    ("provider", "expected"),
    [(Batched(), [[-1.0, 0.0, 1.0], [-1.0, 1.0, 0.0]]), (OneAtATime(), [[0.0, 0.0, 0.5], [0.0, -1.0, 0.0]])],
)
def test_the_core_asks_and_maps(tokenizer: Any, provider: Any, expected: list[list[float]]) -> None:
    scorer = Scorer(
        [built("rewards", provider)], single_process(), 0.0, context=RewardContext(tokenizer=tokenizer)
    )
    try:
        rewards = scorer.score(rollout_of(tokenizer, "abc", "ab"))
    finally:
        scorer.close()
    assert rewards.token_rewards.tolist() == expected
