"""Responses without their thinking part, for rewards of `text: answer`.

    answer = what stands behind the last end of a thinking part; nothing where one has begun and not ended

A part has also begun where the prompt ends with its beginning, as the templates of DeepSeek-R1 write it.
Where the tags are special tokens, which no text has, they are looked for in the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppokit.config.components import BuiltComponent
from ppokit.errors import PluginError
from ppokit.plugin.types import RewardOutput, Rollout

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
    tags: Sequence[Tags] = TAGS,
) -> str:
    """A response's text without its thinking part; as it is where it has none.

    Args:
        text: of the response, without special tokens.
        tags: what begins and what ends a part, of all models that it may be of.
    """
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]

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


def shown_text(reward: BuiltComponent, tokenizer: PreTrainedTokenizerBase) -> BuiltComponent:
    """A reward that sees what its recipe says of responses."""
    settings = reward.settings
    if settings.text == "whole" or not callable(getattr(reward.instance, "score", None)):
        return reward  # on another process, or refused by the scorer
    tags = TAGS if settings.thinking is None else (settings.thinking,)
    return replace(reward, instance=AnswerReward(reward.instance, reward.where, tokenizer, tags))


class AnswerReward:
    """A reward that is shown the answers alone.

    Args:
        reward: any provider.
        where: how errors name it.
        tokenizer: the policy's.
        tags: see `answer_of`.
    """

    def __init__(
        self, reward: Any, where: str, tokenizer: PreTrainedTokenizerBase, tags: Sequence[Tags]
    ) -> None:
        self.reward, self.where, self.tokenizer, self.tags = reward, where, tokenizer, tags

    def score(self, rollout: Rollout) -> RewardOutput:
        """Scores of the answers.

        Raises:
            PluginError: the provider gives token scores, which are of the whole response.
        """
        greedy = None if rollout.greedy is None else self._answers(rollout.greedy)
        output: RewardOutput = self.reward.score(replace(self._answers(rollout), greedy=greedy))
        if getattr(output, "token_scores", None) is not None:
            raise PluginError(
                f"{self.where} scores tokens, which are those of the whole response; got text: answer, "
                "expected text: whole."
            )
        return output

    def _answers(self, rollout: Rollout) -> Rollout:
        answers = [
            answer_of(text, prompt, ids[mask].tolist(), self.tokenizer, self.tags)
            for text, prompt, ids, mask in zip(
                rollout.responses,
                rollout.prompt_ids,
                rollout.response_ids,
                rollout.response_mask,
                strict=True,
            )
        ]
        return replace(rollout, responses=answers)
