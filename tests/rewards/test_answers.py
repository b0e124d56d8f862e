"""Answers without their thinking parts: tags in the text, in the prompt, and as special tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from chat_tokenizer import chat_tokenizer
from components import built
from ppokit.config.reward_settings import RewardSettings
from ppokit.errors import PluginError
from ppokit.plugin.reward_output import RewardOutput
from ppokit.plugin.scoring import RewardContext
from ppokit.plugin.types import Rollout
from ppokit.rewards.answers import answer_of, special_tokens
from ppokit.rewards.scorer import Scorer
from rollouts import make_rollout, single_process

TOKENIZER = chat_tokenizer()
SPECIAL = special_tokens(TOKENIZER)


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def answer(response: str, prompt: str = "What?", **options: Any) -> str:
    """As a rollout has it: text without special tokens, and all tokens."""
    text = TOKENIZER.decode(ids(response), skip_special_tokens=True)
    return answer_of(text, ids(prompt), ids(response), TOKENIZER, SPECIAL, **options)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Two.", "Two."),
        (" Two. ", " Two. "),
        ("<think>One and one.</think>\n\nTwo.", "Two."),
        ("<think>\n\n</think>\n\nTwo.<|im_end|>", "Two."),
        ("One and one.</think>Two.", "Two."),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>a</think>b<think>c", ""),
        ("<think>One and", ""),
        ("<think>One</think>", ""),
        ("[THINK]One and one.[/THINK]Two.<|im_end|>", "Two."),
        ("One and one.[/THINK] Two.", "Two."),
        ("[THINK]One and", ""),
    ],
)
def test_what_stands_behind_the_thinking(response: str, expected: str) -> None:
    assert answer(response) == expected


def test_a_part_that_the_prompt_begins() -> None:
    for begin in ("<think>\n", "[THINK]"):
        assert answer("One and", "<|im_start|>assistant\n" + begin) == ""
    assert answer("Two.", "<|im_start|>assistant\n<think>\n\n</think>\n\n") == "Two."
    assert answer("One</think>Two.", "<|im_start|>assistant\n<think>\n") == "Two."
    assert answer("Two.", "Use <think> tags.<|im_start|>assistant\n") == "Two."


def test_a_stop_string_stays_left_out() -> None:
    """The tokens have it, and the text does not."""
    assert answer_of("OneTwo.", ids("?"), ids("[THINK]One[/THINK]Two.###"), TOKENIZER, SPECIAL) == "Two."


def test_channels() -> None:
    """As gpt-oss writes them, whose marks are special tokens."""
    tokenizer = chat_tokenizer()
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    thought = "<|channel|>analysis<|message|>One and one.<|end|>"
    final = "<|start|>assistant<|channel|>final<|message|>Two."
    for response, expected in ((thought + final, "Two."), (thought, ""), ("Two.", "Two.")):
        own = tokenizer(response)["input_ids"]
        text = tokenizer.decode(own, skip_special_tokens=True)
        assert answer_of(text, [1], own, tokenizer, special_tokens(tokenizer)) == expected


def test_tags_of_ones_own() -> None:
    tags = [("<why>", "</why>")]
    assert answer("<why>a</why> b", tags=tags) == "b"
    assert answer("<think>a</think> b", tags=tags) == "<think>a</think> b"
    with pytest.raises(ValueError, match="needs text: answer"):
        RewardSettings(use="length", thinking=("<why>", "</why>"))


class Lengths:
    """Scores texts by their lengths, or tokens."""

    def __init__(self, *, by_token: bool = False) -> None:
        self.by_token = by_token

    def score(self, rollout: Rollout) -> RewardOutput:
        scores = torch.tensor([float(len(text)) for text in rollout.responses])
        tokens = torch.zeros(rollout.response_ids.shape) if self.by_token else None
        return RewardOutput.of_scores(scores, token_scores=tokens)


def test_a_reward_sees_answers() -> None:
    texts = ["<think>a</think>Two.", "<think>a", "One"]
    rollout = replace(make_rollout([[1]] * 3, [ids(text) for text in texts]), responses=texts)
    context = RewardContext(tokenizer=TOKENIZER)

    def scorer(reward: Lengths) -> Scorer:
        answers = built("rewards", reward, "r", where="r", text="answer")
        return Scorer([answers], single_process(), 0.0, context=context)

    assert scorer(Lengths()).score(rollout).scores.tolist() == [4, 0, 3]
    assert rollout.responses == texts
    with pytest.raises(PluginError, match=r"^r scores tokens, .* got text: answer"):
        scorer(Lengths(by_token=True)).score(rollout)
