"""Responses that were not sampled here: written by people or by another model, and rated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ppokit.errors import DataError
from ppokit.plugin.generation import Generation, PolicyHandle
from ppokit.plugin.response_text import encode_response


def as_generation(
    prompt_ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    policy: PolicyHandle,
    max_new_tokens: int | None = None,
    *,
    separator: str = "",
    prefill: str = "",
) -> Generation:
    """Recorded texts as an engine's answer.

    Each is encoded as it stands behind its prompt, and ends with `PolicyHandle.end_id`, so that the policy
    learns to stop there. The log-probabilities are NaN: who wrote a response knew none.

    Args:
        prompt_ids: token ids of each response's prompt.
        texts: the responses; one that is empty is the end-of-sequence token alone.
        policy: its tokenizer and its `end_id` are used.
        max_new_tokens: a longer one is truncated; its text stays whole, as it was rated.
        separator: what stands between a plain prompt and its response; part of the tokens, not of the text.
        prefill: what each text begins with and each prompt ends with, see `PromptBatch`.

    Raises:
        DataError: a text does not begin with the prefill, or there is a separator too.
    """
    if prefill and separator:
        raise DataError(
            f"separator: got {separator!r} with prompts.prefill, behind which nothing is left to separate; "
            "leave it out."
        )
    for text in texts:
        if not text.startswith(prefill):
            raise DataError(
                f"prompts.prefill: the recorded response {text[:60]!r} does not begin with {prefill!r}, as "
                "all responses of this recipe do; leave prefill out, or write it into the file."
            )
    texts = [text.removeprefix(prefill) for text in texts]
    end = [] if policy.end_id is None else [policy.end_id]
    encoded = [
        encode_response(policy.tokenizer, prompt, separator + text) + end
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
