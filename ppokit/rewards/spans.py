"""Scores of spans of a response's text become scores of its tokens.

Of a span's score each token that the policy wrote and that has a character of the span gets the same part, so
that they add up to it. A character that several tokens make belongs to the last of them, one of a prefill to
none. Outside a run nobody knows the tokens' texts: there every token of the response gets the same part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppokit.errors import PluginError, excerpt_of
from ppokit.plugin.response_text import decode_responses
from ppokit.plugin.reward_output import RewardOutput, Span
from ppokit.plugin.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RUN, _BEHIND = 64, 32  # tokens that are decoded together, and before them what they are read behind


def with_token_scores(
    output: RewardOutput, rollout: Rollout, tokenizer: PreTrainedTokenizerBase | None, where: str
) -> RewardOutput:
    """The same output with its spans as token scores, added to those that it has.

    Raises:
        PluginError: a span is none of its response, or lies where the policy wrote nothing.
    """
    spans = output.spans
    if spans is None:
        return output
    if not _is_list(spans) or len(spans) != len(rollout):
        actual = f"spans for {len(spans)} responses" if _is_list(spans) else f"{excerpt_of(spans)} as spans"
        raise PluginError(f"{where} returned {actual}; expected a list for each of {len(rollout)}.")
    tokens = torch.zeros(rollout.response_ids.shape)
    for index, own in enumerate(spans):
        if not _is_list(own) or not all(isinstance(span, Span) for span in own):
            raise PluginError(
                f"{where} returned {excerpt_of(own)} as spans of sample {rollout.ids[index]}; expected a "
                "list of Span(start, end, score)."
            )
        if own:
            tokens[index] = _of_response(own, rollout, index, tokenizer, where)
    given = output.token_scores
    return replace(output, token_scores=tokens if given is None else given + tokens, spans=None)


def _of_response(
    spans: Sequence[Span], rollout: Rollout, index: int, tokenizer: PreTrainedTokenizerBase | None, where: str
) -> Tensor:
    mask, text = rollout.loss_mask[index], rollout.responses[index]
    scores, given = torch.zeros(len(mask)), len(rollout.prefill)
    ends: list[int] | None = None
    if tokenizer is not None:
        ids = rollout.response_ids[index][rollout.response_mask[index]].tolist()
        own = token_ends(tokenizer, rollout.prompt_ids[index], ids, text[given:])
        ends = [given + end for end in own]
    for span in spans:
        returned = f"{where} returned {span} for sample {rollout.ids[index]}"
        if not _is_within(span, len(text)):
            raise PluginError(
                f"{returned}; expected 0 <= start < end <= {len(text)}, the response's characters, and a "
                "finite score."
            )
        if span.end <= given:
            raise PluginError(
                f"{returned}, which is within prompts.prefill, {rollout.prefill!r}: the policy did not write "
                f"that; expected a span that ends behind its {given} characters."
            )
        if ends is None:
            chosen = mask.clone()
        else:
            starts = [given, *ends[:-1]]
            touched = [s < span.end and e > span.start for s, e in zip(starts, ends, strict=True)]
            chosen = torch.zeros_like(mask)
            chosen[: len(touched)] = torch.tensor(touched)
            chosen &= mask
        if not bool(chosen.any()):
            raise PluginError(
                f"{returned}, where the policy wrote no token; expected a span of what it wrote itself."
            )
        scores += chosen * (span.score / int(chosen.sum()))
    return scores


def _is_list(given: object) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _is_within(span: Span, length: int) -> bool:
    if not (isinstance(span.start, Integral) and isinstance(span.end, Integral)):
        return False
    return 0 <= span.start < span.end <= length and isinstance(span.score, Real) and math.isfinite(span.score)


def token_ends(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], ids: Sequence[int], text: str
) -> list[int]:
    """Where in a response's text each of its tokens ends; a character's tokens but the last end before it.

    Tokens are decoded in runs, each behind the last token before it that ended with a character.
    """
    ends: list[int] = []
    begin = offset = 0  # of the run: its first token, and where that begins in the text
    while len(ends) < len(ids):
        prefixes = [list(ids[begin : k + 1]) for k in range(len(ends), min(len(ids), len(ends) + _RUN))]
        context = [*prompt_ids[-_BEHIND:], *ids[:begin]][-_BEHIND:]
        settled = begin, offset
        for decoded in decode_responses(tokenizer, [context] * len(prefixes), prefixes):
            pairs = enumerate(zip(decoded, text[offset : offset + len(decoded)], strict=False))
            known = next((i for i, (a, b) in pairs if a != b), min(len(decoded), len(text) - offset))
            ends.append(max(offset + known, ends[-1] if ends else 0))
            if known == len(decoded):
                settled = len(ends), offset + known
        begin, offset = settled
    return ends
