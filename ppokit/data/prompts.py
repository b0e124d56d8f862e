"""From a data set to the prompts of each step.

Which prompts per step takes depends on the seed and the step alone, so that a resumed run goes on as if
it had never stopped.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ppokit.data.chat_templates import render
from ppokit.data.context import context_length
from ppokit.data.formats import Table
from ppokit.data.prompt_rows import prompt_of
from ppokit.errors import DataError, PpokitWarning
from ppokit.messages import NOT_RESIZED
from ppokit.plugin.types import PromptBatch
from ppokit.seeds import seed_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ppokit.config.prompt_settings import PromptSettings
    from ppokit.config.settings import RolloutSettings, RunSettings

_AT_ONCE = 1024  # prompts that are tokenized together


def encode_prompts(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: PromptSettings
) -> list[list[int]]:
    """Token ids of each prompt, through the chat template or as plain text, with what its response begins by.

    Raises:
        DataError: the template refuses the messages, such as one of the system.
    """
    if not prompts:
        return []
    if settings.chat:
        texts = [render(prompt, tokenizer, settings) + settings.prefill for prompt in prompts]
        return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    texts = [prompt + settings.prefill for prompt in prompts]
    encoded = [list(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    # Some tokenizers end every text; a prompt is there to be continued.
    for ids, text in zip(encoded, texts, strict=True):
        if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
            ids.pop()
    return encoded


@dataclass(frozen=True)
class PromptLimits:
    """What a prompt must keep to.

    Attributes:
        max_new_tokens: of the response that it leaves room for.
        context: the longest sequence that the model takes; None where it has no limit.
        vocabulary: ids that the model has embeddings for are below it; None where that is not known.
    """

    max_new_tokens: int
    context: int | None = None
    vocabulary: int | None = None

    @staticmethod
    def of(config: Any, max_new_tokens: int) -> PromptLimits:
        """Those of a model, by its configuration."""
        vocabulary = getattr(config.get_text_config(), "vocab_size", None)
        return PromptLimits(max_new_tokens, context_length(config), vocabulary)

    def fault(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str | None:
        """What is wrong with a prompt, behind a word for it; None where nothing is."""
        if not ids:
            return "is an empty prompt; expected at least one token."
        if self.vocabulary is not None and max(ids) >= self.vocabulary:
            token = tokenizer.convert_ids_to_tokens(max(ids))
            return (
                f"has the token {token!r}, id {max(ids)}, and the model has embeddings for ids below "
                f"{self.vocabulary}. {NOT_RESIZED}"
            )
        if self.context is None or len(ids) + self.max_new_tokens <= self.context:
            return None
        return (
            f"has {len(ids)} tokens, and rollout.max_new_tokens asks for {self.max_new_tokens} more, but the "
            f"model's context holds {self.context}. Shorten or drop it, or lower max_new_tokens."
        )


def longest_prompt(
    numbers: Sequence[int],
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    settings: PromptSettings,
    limits: PromptLimits,
    key: str,
) -> int:
    """Tokens of the longest prompt, each of which is looked at.

    Args:
        numbers: of their rows in the file.
        key: of the recipe's section that names the file.

    Raises:
        DataError: a prompt cannot be asked.
    """
    longest = 0
    encoded = _encoded_at_once(prompts, tokenizer, settings)
    for number, prompt, ids in zip(numbers, prompts, encoded, strict=True):
        fault = limits.fault(ids, tokenizer)
        if fault is not None:
            raise DataError(f"{key}: row {number} {fault}" + (f" It begins {prompt[:60]!r}." if ids else ""))
        longest = max(longest, len(ids))
    return longest


def _encoded_at_once(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: PromptSettings
) -> Iterator[list[int]]:
    """Token ids of each prompt, of any number of them."""
    for start in range(0, len(prompts), _AT_ONCE):
        yield from encode_prompts(prompts[start : start + _AT_ONCE], tokenizer, settings)


class Prompts:
    """The prompts of a run.

    They are tokenized when a step needs them. Before training, those that the run's steps will ask for are
    tokenized once for their lengths alone, so that no run ends at step 900 over a long prompt: which they are
    is known from the seed, and it costs less than a thousandth of the answers to them, however many rows the
    data set has. What dynamic sampling draws beyond them is looked at when it is drawn.

    Args:
        table: the data set, from `ppokit.data.prompt_rows.read_prompts`.
        tokenizer: of the policy.
        settings, rollout, run: sections of the recipe.
        limits: what each prompt must keep to.

    Attributes:
        texts: of each row, a `ChatPrompt` where it is a chat.
        rows: all columns of each row.
        longest: tokens of the longest prompt that the run's steps ask for.

    Raises:
        DataError: a prompt of the run has no token, or leaves no room for a response.
    """

    def __init__(
        self,
        table: Table,
        tokenizer: PreTrainedTokenizerBase,
        settings: PromptSettings,
        rollout: RolloutSettings,
        run: RunSettings,
        limits: PromptLimits,
    ) -> None:
        self.settings = settings
        self.per_step, self.seed = rollout.prompts_per_step, run.seed
        self.rows: list[Mapping[str, Any]] = list(table.records())
        self.texts = [prompt_of(row, settings) for row in self.rows]
        self._numbers = [number for number, _ in table.rows]
        self._tokenizer, self._limits = tokenizer, limits
        self._cached_order: tuple[int, torch.Tensor] | None = None
        asked = self._asked(run.steps)
        numbers, texts = [self._numbers[i] for i in asked], [self.texts[i] for i in asked]
        self.longest = longest_prompt(numbers, texts, tokenizer, settings, limits, "prompts")

    def longest_of_all(self) -> int:
        """Tokens of the longest prompt of the whole data set, whatever steps there will be."""
        return max(map(len, _encoded_at_once(self.texts, self._tokenizer, self.settings)))

    def first(self, count: int) -> list[str]:
        """The first prompts, in the data set's order, of those that the first step asks for."""
        return [self.texts[i] for i in sorted(set(self._indices(1)))[:count]]

    def step(self, step: int) -> PromptBatch:
        """The prompts of a step, from 1: the data set in a new order each epoch, none left out."""
        indices = self._indices(step)
        return self._batch(indices, self._encode(indices), 0)

    def resample(self, step: int, resample_round: int, count: int, used: Collection[int]) -> PromptBatch:
        """At most `count` other prompts for a step, drawn from those not `used` in it.

        A prompt that cannot be asked is passed over with a warning: the steps of the run do without it.

        Args:
            step: from 1.
            resample_round: which of the step's rounds it is, from 1.
        """
        generator = torch.Generator().manual_seed(seed_from(self.seed, step - 1, -resample_round, 0))
        order = torch.randperm(len(self.rows), generator=generator).tolist()
        indices: list[int] = []
        encoded: list[list[int]] = []
        for index in order:
            if len(indices) == count:
                break
            if index in used:
                continue
            (ids,) = self._encode([index])
            fault = self._limits.fault(ids, self._tokenizer)
            if fault is not None:
                text = f"dynamic sampling left it out: prompts: row {self._numbers[index]} {fault}"
                warnings.warn(text, PpokitWarning, stacklevel=2)
                continue
            indices.append(index)
            encoded.append(ids)
        return self._batch(indices, encoded, resample_round)

    def steps(self, first: int, last: int) -> Iterator[PromptBatch]:
        """The prompts of each step from first to last."""
        return (self.step(step) for step in range(first, last + 1))

    def _asked(self, steps: int) -> list[int]:
        """The rows that so many steps ask for, in the data set's order."""
        if steps * self.per_step >= len(self.rows):
            return list(range(len(self.rows)))
        return sorted(self._order(0)[: steps * self.per_step].tolist())

    def _indices(self, step: int) -> list[int]:
        indices = []
        for position in range((step - 1) * self.per_step, step * self.per_step):
            epoch, offset = divmod(position, len(self.rows))
            indices.append(int(self._order(epoch)[offset]))
        return indices

    def _encode(self, indices: Sequence[int]) -> list[list[int]]:
        return encode_prompts([self.texts[i] for i in indices], self._tokenizer, self.settings)

    def _batch(self, indices: list[int], encoded: list[list[int]], resample_round: int) -> PromptBatch:
        return PromptBatch(
            indices=indices,
            prompts=[self.texts[i] for i in indices],
            prompt_ids=encoded,
            rows=[self.rows[i] for i in indices],
            resample_round=resample_round,
            prefill=self.settings.prefill,
        )

    def _order(self, epoch: int) -> torch.Tensor:
        if self._cached_order is None or self._cached_order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_from(self.seed, epoch))
            self._cached_order = (epoch, torch.randperm(len(self.rows), generator=generator))
        return self._cached_order[1]
