"""From a data set to the prompts of each step.

Which prompts per step takes depends on the seed and the step alone, so that a resumed run goes on as if
it had never stopped.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ppokit.data.chat_templates import render
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


def without_embedding(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> str:
    """What is wrong with a prompt whose largest id is not below `vocabulary`."""
    token = tokenizer.convert_ids_to_tokens(max(ids))
    return (
        f"has the token {token!r}, id {max(ids)}, and the model has embeddings for ids below {vocabulary}. "
        f"{NOT_RESIZED}"
    )


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
        context: the longest sequence that the model takes; None where it has no limit.
        vocabulary: ids that the model has embeddings for are below it; None where that is not known.

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
        *,
        context: int | None,
        vocabulary: int | None,
    ) -> None:
        self.settings = settings
        self.per_step, self.seed = rollout.prompts_per_step, run.seed
        self.rows: list[Mapping[str, Any]] = list(table.records())
        self.texts = [prompt_of(row, settings) for row in self.rows]
        self._numbers = [number for number, _ in table.rows]
        self._tokenizer, self._max_new_tokens = tokenizer, rollout.max_new_tokens
        self._context, self._vocabulary = context, vocabulary
        self._cached_order: tuple[int, torch.Tensor] | None = None
        self.longest = 0
        asked = self._asked(run.steps)
        for start in range(0, len(asked), _AT_ONCE):
            indices = asked[start : start + _AT_ONCE]
            for index, ids in zip(indices, self._encode(indices), strict=True):
                fault = self._fault(index, ids)
                if fault is not None:
                    raise DataError(fault)
                self.longest = max(self.longest, len(ids))

    def longest_of_all(self) -> int:
        """Tokens of the longest prompt of the whole data set, whatever steps there will be."""
        starts = range(0, len(self.texts), _AT_ONCE)
        rows = (range(start, min(start + _AT_ONCE, len(self.texts))) for start in starts)
        return max(len(ids) for indices in rows for ids in self._encode(indices))

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
            fault = self._fault(index, ids)
            if fault is not None:
                warnings.warn(f"dynamic sampling left it out: {fault}", PpokitWarning, stacklevel=2)
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

    def _fault(self, index: int, ids: Sequence[int]) -> str | None:
        number = self._numbers[index]
        if not ids:
            return f"prompts: row {number} is an empty prompt; expected at least one token."
        if self._vocabulary is not None and max(ids) >= self._vocabulary:
            return f"prompts: row {number} {without_embedding(ids, self._tokenizer, self._vocabulary)}"
        if self._context is None or len(ids) + self._max_new_tokens <= self._context:
            return None
        return (
            f"prompts: row {number} has {len(ids)} tokens, and rollout.max_new_tokens asks for "
            f"{self._max_new_tokens} more, but the model's context holds {self._context}. Shorten or drop "
            f"the row, or lower max_new_tokens. It begins {self.texts[index][:60]!r}."
        )

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
