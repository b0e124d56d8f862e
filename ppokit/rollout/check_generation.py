"""What a rollout engine returns is checked: counts, ids, log-probabilities, masks, texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import torch

from ppokit.errors import PluginError
from ppokit.messages import listed, shown
from ppokit.plugin.generation import Generation, GenerationRequest, PolicyHandle, SamplingParams
from ppokit.plugin.types import ResponseOutcome

_LOWEST = torch.finfo(torch.float32).min
_PER_TOKEN = ("response_ids", "sampler_logprobs", "policy_logprobs", "loss_mask")
_PER_RESPONSE = ("outcomes", "texts", "policy_version")
_OPTIONAL = ("policy_logprobs", "loss_mask", "policy_version")

ROUNDING = 1e-3
"""Log-probabilities up to this above 0 are rounding, as of a softmax in half precision."""


def check_generation(
    generation: object, request: GenerationRequest, policy: PolicyHandle, sample_ids: Sequence[str]
) -> None:
    """An engine kept its contract.

    Args:
        sample_ids: of the responses that were asked for.

    Raises:
        PluginError: it did not; says what it returned and of which sample.
    """
    if not isinstance(generation, Generation):
        raise PluginError(f"returned a {type(generation).__name__}; expected a Generation.")
    _check_lists(generation)
    counts = {name: len(value) for name, value in vars(generation).items() if value is not None}
    if set(counts.values()) != {len(request)}:
        raise PluginError(
            f"returned {counts}; expected {len(request)} of each (prompts x responses per prompt)."
        )
    decoded = _decoded(generation, policy)
    for index, sample in enumerate(sample_ids):
        fault = _fault(generation, index, request.sampling, policy, decoded[index])
        if fault is not None:
            returned, expected = fault
            raise PluginError(f"returned {returned} for sample {sample}; expected {expected}.")


def _check_lists(generation: Generation) -> None:
    """Every field is a list, of one list per response where it has something per token."""
    for name in (*_PER_TOKEN, *_PER_RESPONSE):
        value: Any = getattr(generation, name)
        if value is None and name in _OPTIONAL:
            continue
        if not _is_list(value):
            raise PluginError(f"returned a {type(value).__name__} as {name}; expected a list.")
        for index, row in enumerate(value if name in _PER_TOKEN else ()):
            if not _is_list(row):
                raise PluginError(
                    f"returned a {type(row).__name__} as {name}[{index}]; expected a list with an entry per "
                    "token, empty where the response failed."
                )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _fault(
    generation: Generation, index: int, sampling: SamplingParams, policy: PolicyHandle, decoded: Sequence[str]
) -> tuple[str, str] | None:
    """What is wrong with one response, and what was expected; None if nothing is."""
    outcome, text = generation.outcomes[index], generation.texts[index]
    if outcome not in get_args(ResponseOutcome):
        return f"the outcome {shown(outcome)}", listed(get_args(ResponseOutcome), "or")
    if not isinstance(text, str):
        return f"{shown(text)} in texts", "text"
    if generation.policy_version is not None:
        version = generation.policy_version[index]
        if not _is_int(version) or not 0 <= version <= policy.version:
            return f"policy_version {shown(version)}", f"a whole number from 0 to {policy.version}"
    if outcome == "failed":
        return None
    ids = generation.response_ids[index]
    if not ids:
        return "no tokens", "at least one, or the outcome failed"
    if len(ids) > sampling.max_new_tokens:
        return f"{len(ids)} tokens", f"at most rollout.max_new_tokens, {sampling.max_new_tokens}"
    for token in ids:
        if not _is_int(token) or not 0 <= token < policy.vocab_size:
            return f"the token id {shown(token)}", f"whole numbers from 0 to {policy.vocab_size - 1}"
    own = [True] * len(ids) if generation.loss_mask is None else generation.loss_mask[index]
    if len(own) != len(ids) or not all(isinstance(flag, bool) for flag in own):
        return f"a loss_mask of {len(own)} entries for {len(ids)} tokens", "true or false for each token"
    if not any(own):
        return "a loss_mask without a token of the policy's own", "at least one, or the outcome failed"
    for name in ("sampler_logprobs", "policy_logprobs"):
        rows = getattr(generation, name)
        if rows is not None and (fault := _logprob_fault(name, rows[index], own)) is not None:
            return fault
    drawn = any(not math.isnan(number) for number in generation.sampler_logprobs[index])
    # Who returns a text that was written elsewhere knows no log-probabilities, and its text may be whole
    # where its tokens are not.
    if drawn and not any(_agrees(text, candidate, sampling) for candidate in decoded):
        return f"the text {shown(text[:60])}", f"that of its token ids, {shown(decoded[0][:60])}"
    return None


def _logprob_fault(name: str, row: Sequence[Any], own: Sequence[bool]) -> tuple[str, str] | None:
    if len(row) != len(own):
        return f"{len(row)} {name} for {len(own)} tokens", "one per token"
    for number, counts in zip(row, own, strict=True):
        if not isinstance(number, int | float) or isinstance(number, bool):
            return f"{shown(number)} in {name}", "numbers, NaN where it knows none"
        if counts and not math.isnan(number) and not _LOWEST <= number <= ROUNDING:
            return f"{number} in {name}", "finite log-probabilities, 0 or less, or NaN"
    return None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _decoded(generation: Generation, policy: PolicyHandle) -> list[tuple[str, ...]]:
    """What each response's ids say, in the ways that an engine may put it: without and with special tokens,
    with and without the tokens that the policy did not write.
    """
    kept = [
        [token for token in ids if _is_int(token) and 0 <= token < policy.vocab_size]
        for ids in generation.response_ids
    ]
    readings = [kept]
    if generation.loss_mask is not None:
        masks = generation.loss_mask
        readings.append(
            [
                [t for t, own in zip(ids, mask, strict=False) if own]
                for ids, mask in zip(kept, masks, strict=True)
            ]
        )
    texts = [
        policy.tokenizer.batch_decode(reading, skip_special_tokens=skip)
        for reading in readings
        for skip in (True, False)
    ]
    return list(zip(*texts, strict=True)) if kept else []


def _agrees(text: str, decoded: str, sampling: SamplingParams) -> bool:
    """Whether a text is what its ids say: but for white space, half a character at the end, and what follows
    where a stop string or stop token ends it.
    """
    short, whole = _bare(text), _bare(decoded)
    if short == whole:
        return True
    stopped = bool(sampling.stop_token_ids) or any(stop in decoded for stop in sampling.stop)
    return stopped and whole.startswith(short)


def _bare(text: str) -> str:
    return "".join(text.replace("\N{REPLACEMENT CHARACTER}", "").split())
