"""Texts that people wrote, by which it shows what the policy has unlearned of the language.

    perplexity = exp(-sum of ln p(token | text before it) / number of tokens)

over all of them, each read as it stands, without a chat template. The first word of each is given, or of a
text without spaces its first character. A text is recorded with its share of it by the jackknife.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppokit.config.evaluation_settings import TEXTS
from ppokit.data.prompt_rows import first_prompts, read_prompts
from ppokit.errors import DataError
from ppokit.plugin.jackknife import jackknife_shares

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ppokit.config.evaluation_settings import TextSettings
    from ppokit.evaluation.view import HeldOutView

_BEGINNING = re.compile(r"\s*\S+(?=\s+\S)|\s*\S(?=.*\S)", re.DOTALL)


@dataclass(frozen=True)
class HeldOutTexts:
    """Texts on which nothing trains.

    Attributes:
        beginnings: what is given of each.
        rests: what comes after it.
    """

    beginnings: Sequence[str]
    rests: Sequence[str]


def read_texts(
    settings: TextSettings | None, tokenizer: PreTrainedTokenizerBase, context: int | None
) -> HeldOutTexts | None:
    """The recipe's texts; None where it names none.

    Args:
        context: tokens that the model takes; None where it has no limit.

    Raises:
        DataError: they cannot be read, or one is too short or too long.
    """
    if settings is None:
        return None
    key = "evaluation.texts"
    texts, _, numbers = first_prompts(read_prompts(settings.table, chat=False, key=key), settings.table)
    beginnings: list[str] = []
    rests: list[str] = []
    for number, text in zip(numbers, texts, strict=True):
        match = _BEGINNING.match(text)
        if match is None:
            raise DataError(f"{key}: row {number} is {text[:60]!r}; expected a text of several words.")
        length = len(tokenizer(text, verbose=False)["input_ids"])
        if context is not None and length >= context:
            raise DataError(
                f"{key}: row {number} has {length} tokens, and the model's context holds {context}. Shorten "
                f"or split it. It begins {text[:60]!r}."
            )
        beginnings.append(match.group())
        rests.append(text[match.end() :])
    return HeldOutTexts(beginnings, rests)


def measure_texts(texts: HeldOutTexts, view: HeldOutView) -> dict[str, float]:
    """Record what the policy makes of each text, and return the perplexity of all."""
    plain = {"chat": False, "system": None, "prefill": ""}
    policy = replace(view.policy, prompts=view.policy.prompts.model_copy(update=plain))
    rollout = policy.recorded(texts.beginnings, texts.rests)
    # Many texts begin with the same word.
    rollout = replace(rollout, group_ids=torch.arange(len(rollout)))

    def logprobs(logits: Tensor, responses: Tensor, positions: Tensor) -> Tensor:
        targets = rollout.response_ids.to(logits.device)[responses, positions]
        return logits.log_softmax(dim=-1).gather(-1, targets[:, None])

    numbers = view.read_logits(rollout, logprobs).squeeze(-1).double()
    end = policy.policy.end_id is not None  # a token of no text
    counts = (rollout.lengths - int(end)).tolist()
    sums = [float(row[:count].sum()) for row, count in zip(numbers, counts, strict=True)]
    per_token = [total / count for total, count in zip(sums, counts, strict=True)]
    values = {"logprob_per_token": per_token}
    total, count = sum(sums), sum(counts)
    perplexity = math.exp(-total / count)
    if len(texts.rests) > 1:
        left_out = [math.exp((own - total) / (count - n)) for own, n in zip(sums, counts, strict=True)]
        values["perplexity"] = jackknife_shares(perplexity, left_out)
    replace(view, evaluator=TEXTS).record(rollout, values)
    return {f"eval/{TEXTS}/perplexity": perplexity}
