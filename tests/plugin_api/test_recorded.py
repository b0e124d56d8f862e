"""Recorded texts as an engine's answer: their ids, their end, and what nobody knows about them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from policies import policy_of
from ppokit.errors import DataError
from ppokit.plugin.recorded import as_generation
from ppokit.rollout.policy import Policy

PROMPTS = [[1, 40], [1, 41, 42], [1]]
TEXTS = [" happy and smiled.", "", "Tom"]


def policy(folder: Path, **changes: Any) -> Policy:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return policy_of(None, tokenizer, end_ids=frozenset({2, 7}))


def test_each_text_ends_with_the_models_end(tiny_model: Path) -> None:
    given = policy(tiny_model)
    generation = as_generation(PROMPTS, TEXTS, given)
    plain = [given.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert generation.response_ids == [[*ids, given.tokenizer.eos_token_id] for ids in plain]
    assert generation.response_ids[1] == [given.tokenizer.eos_token_id]
    assert generation.outcomes == ["finished"] * 3
    assert generation.texts == TEXTS
    assert [len(numbers) for numbers in generation.sampler_logprobs] == [
        len(ids) for ids in generation.response_ids
    ]
    assert all(math.isnan(number) for numbers in generation.sampler_logprobs for number in numbers)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_longer_one_is_truncated(tiny_model: Path, limit: int) -> None:
    whole = as_generation(PROMPTS, TEXTS, policy(tiny_model))
    generation = as_generation(PROMPTS, TEXTS, policy(tiny_model), limit)
    assert generation.response_ids == [ids[:limit] for ids in whole.response_ids]
    assert generation.outcomes == [
        "finished" if len(ids) <= limit else "truncated" for ids in whole.response_ids
    ]
    assert generation.texts == TEXTS, "the whole text was rated"


def test_the_end_is_that_of_the_policy(tiny_model: Path) -> None:
    given = policy(tiny_model)
    for end, expected in ((7, [7]), (None, [])):
        generation = as_generation(PROMPTS[:1], [""], replace(given, end_id=end))
        assert generation.response_ids == [expected]


def test_a_prefill_is_the_prompts(tiny_model: Path) -> None:
    """It is in the text that was rated, and in the prompt's tokens."""
    given = policy(tiny_model)
    generation = as_generation(PROMPTS[:1], ["Tom was happy."], given, prefill="Tom")
    assert generation.texts == [" was happy."]
    assert generation.response_ids == as_generation(PROMPTS[:1], [" was happy."], given).response_ids
    with pytest.raises(DataError, match=r"^prompts\.prefill: .* 'Lily sat\.' does not begin with 'Tom'"):
        as_generation(PROMPTS[:1], ["Lily sat."], given, prefill="Tom")
    with pytest.raises(DataError, match=r"^separator: got ' ' with prompts\.prefill"):
        as_generation(PROMPTS[:1], ["Tom"], given, prefill="Tom", separator=" ")
