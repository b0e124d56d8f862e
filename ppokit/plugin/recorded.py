"""Responses that were not sampled here: written by people or by another model, and rated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ppokit.plugin.generation import Generation, PolicyHandle
from ppokit.plugin.response_text import encode_response


def as_generation(
    prompt_ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    policy: PolicyHandle,
    max_new_tokens: int | None = None,
    *,
    separator: str = "",
) -> Generation:
    """Recorded texts as an engine's answer.

    Each is encoded as it stands behind its prompt, and ends with the model's end-of-sequence token, so that
    the policy learns to stop there. The log-probabilities are NaN: who wrote a response knew none.

    Args:
        prompt_ids: token ids of each response's prompt.
        texts: the responses; one that is empty is the end-of-sequence token alone.
        policy: its tokenizer and its end-of-sequence tokens are used.
        max_new_tokens: a longer one is truncated; its text stays whole, as it was rated.
        separator: what stands between a plain prompt and its response; part of the tokens, not of the text.
    """
    tokenizer = policy.tokenizer
    end = tokenizer.eos_token_id
    if end is None and policy.end_ids:
        end = min(policy.end_ids)
    encoded = [
        encode_response(tokenizer, prompt, separator + text) + ([] if end is None else [int(end)])
        for prompt, text in zip(prompt_ids, texts, strict=True)
    ]
    kept = [ids[:max_new_tokens] for ids in encoded]
    return Generation(
        response_ids=kept,
        sampler_logprobs=[[math.nan] * len(ids) for ids in kept],
        outcomes=[
            "finished" if len(ids) == len(whole) else "truncated"
            for ids, whole in zip(kept, encoded, strict=True)
        ],
        texts=list(texts),
    )
