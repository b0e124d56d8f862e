"""Responses without their thinking part, for rewards of `text: answer`.

    answer = what stands behind the last end of a thinking part; nothing where one has begun and not ended

A part has also begun where the prompt ends with its beginning, as the templates of DeepSeek-R1 write it.
Where the tags are special tokens, which no text has, they are looked for in the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ppokit.config.reward_settings import RewardSettings
from ppokit.plugin.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tags = tuple[str, str]

TAGS: tuple[Tags, ...] = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM, SmolLM3
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
_TAIL = 16  # tokens at the end of a prompt that a tag may be


def answer_of(
    text: str,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    special: Sequence[str],
    tags: Sequence[Tags] = TAGS,
) -> str:
    """A response's text without its thinking part; as it is where it has none.

    Args:
        text: of the response, without special tokens.
        special: those that the tokenizer has, from `special_tokens`.
        tags: what begins and what ends a part, of all models that it may be of.
    """

    def plain(raw: str) -> str:
        for token in special:
            raw = raw.replace(token, "")
        return raw

    tail = tokenizer.decode(list(prompt_ids[-_TAIL:]), skip_special_tokens=False).rstrip()
    by_tokens = tokenizer.decode(list(response_ids), skip_special_tokens=False)
    for begin, end in tags:
        raw = by_tokens if plain(begin + end) != begin + end else text
        thought, ended, rest = raw.rpartition(end)
        if begin in rest or (not ended and tail.endswith(begin)):
            return ""
        if ended:
            _, _, answer = text.partition(plain(thought + end)) if raw is not text else ("", "", rest)
            return answer.lstrip()
    return text


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens that no text has: of some models thousands, which are listed once for all responses."""
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def answers_of(
    rollout: Rollout, settings: RewardSettings, tokenizer: PreTrainedTokenizerBase | None
) -> Rollout:
    """A rollout as its reward's recipe shows it: whole responses, or answers alone, also greedy ones.

    Args:
        tokenizer: the policy's.
    """
    if settings.text == "whole" or tokenizer is None:
        return rollout
    tags = TAGS if settings.thinking is None else (settings.thinking,)
    special = special_tokens(tokenizer)
    answers = [
        answer_of(text, prompt, ids[mask].tolist(), tokenizer, special, tags)
        for text, prompt, ids, mask in zip(
            rollout.responses, rollout.prompt_ids, rollout.response_ids, rollout.response_mask, strict=True
        )
    ]
    greedy = None if rollout.greedy is None else answers_of(rollout.greedy, settings, tokenizer)
    return replace(rollout, responses=answers, greedy=greedy)
