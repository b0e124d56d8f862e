"""Scores of characters become scores of the tokens that have them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from components import built
from ppokit.errors import PluginError
from ppokit.plugin import RewardOutput, Rollout, Scored, Span, decode_responses
from ppokit.plugin.scoring import RewardContext
from ppokit.rewards.scorer import Scorer
from ppokit.rewards.spans import token_ends, with_token_scores
from ppokit.rollout.dynamic_sampling import concat_rollouts
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
    ("span", "expected"),
    [
        (Span(9, 10, 1.0), [0.0, 1.0, 0.0]),
        (Span(0, 10, 1.0), [0.5, 0.5, 0.0]),
        (Span(0, 11, 3.0), [1.0, 1.0, 1.0]),
    ],
)
def test_tokens_begin_behind_a_prefill(tokenizer: Any, span: Span, expected: list[float]) -> None:
    """The text "Answer: abc" has the tokens of "abc"."""
    rollout = replace(rollout_of(tokenizer, "abc", "abc"), responses=["Answer: abc"] * 2, prefill="Answer: ")
    for part in (rollout, rollout.select([1]), concat_rollouts([rollout, rollout])):
        output = RewardOutput.of_spans([[span]] * len(part))
        scores = with_token_scores(output, part, tokenizer, "x").token_scores
        assert scores is not None
        assert scores.tolist() == [expected] * len(part)


@pytest.mark.parametrize("known", [True, False])
def test_a_span_within_a_prefill_is_refused(tokenizer: Any, known: bool) -> None:
    rollout = replace(rollout_of(tokenizer, "abc"), responses=["Answer: abc"], prefill="Answer: ")
    with pytest.raises(
        PluginError, match=r"which is within prompts\.prefill, 'Answer: ': .* its 8 characters"
    ):
        with_token_scores(
            RewardOutput.of_spans([[Span(0, 8, 1.0)]]), rollout, tokenizer if known else None, "x"
        )


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


def test_characters_of_answers_are_refused_as_such(tokenizer: Any) -> None:
    """Not by where they are in the whole response, which is another place."""
    rollout = rollout_of(tokenizer, "<think>x</think>a")
    own = built("rewards", Batched(), text="answer")
    scorer = Scorer([own], single_process(), 0.0, context=RewardContext(tokenizer=tokenizer))
    with pytest.raises(PluginError, match=r"scores tokens, .*; got text: answer"):
        scorer.score(rollout)
    scorer.close()


def test_ends_of_long_responses_are_those_of_whole_prefixes() -> None:
    """By a tokenizer that joins bytes of several characters; decoding does not grow with the square."""
    text = "aé😀b \u0915\u094d\u0937 c" * 200
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=ALPHABET, show_progress=False)
    trained.train_from_iterator([text], trainer)
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=trained)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > 1000
    expected = []
    for k in range(len(ids)):
        (decoded,) = decode_responses(tokenizer, [[0]], [ids[: k + 1]])
        same = (i for i, (a, b) in enumerate(zip(decoded, text, strict=False)) if a != b)
        expected.append(max(next(same, min(len(decoded), len(text))), *expected[-1:], 0))
    counted = Counting(tokenizer)
    assert token_ends(counted, [0], ids, text) == expected  # type: ignore[arg-type]
    assert counted.tokens < 200 * len(ids)


class Counting:
    """Counts the tokens that are decoded."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.tokens = tokenizer, 0

    def decode(self, ids: Any, **more: Any) -> Any:
        self.tokens += len(ids)
        return self.tokenizer.decode(ids, **more)

    def batch_decode(self, rows: Any, **more: Any) -> Any:
        self.tokens += sum(map(len, rows))
        return self.tokenizer.batch_decode(rows, **more)


@pytest.mark.parametrize("awaited", [False, True])
def test_characters_are_not_decoded_on_the_event_loop(tokenizer: Any, awaited: bool) -> None:
    """Where they would keep every other call waiting."""
    threads = set()

    class Watching(Counting):
        def batch_decode(self, rows: Any, **more: Any) -> Any:
            threads.add(threading.current_thread().name)
            return super().batch_decode(rows, **more)

    class Spans:
        def score(self, rollout: Rollout) -> RewardOutput:
            return RewardOutput.of_spans([[Span(0, 1, 1.0)]] * len(rollout))

    class Awaited(Spans):
        async def score(self, rollout: Rollout) -> RewardOutput:  # type: ignore[override]
            return Spans().score(rollout)

    context = RewardContext(tokenizer=Watching(tokenizer))  # type: ignore[arg-type]
    one = built("rewards", Awaited() if awaited else Spans(), retries=1)
    scoring = Scorer([one], single_process(), 0.0, context=context)
    rewards = scoring.score(rollout_of(tokenizer, "abcd", "ab"))
    scoring.close()
    assert rewards.token_rewards[:, 0].tolist() == [1.0, 1.0]
    assert threads
    assert "ppokit rewards" not in threads
