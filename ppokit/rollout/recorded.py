"""A rollout of responses that were written before, by people or by another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppokit.data.prompts import encode_prompts
from ppokit.errors import DataError
from ppokit.plugin.generation import PolicyHandle
from ppokit.plugin.recorded import as_generation
from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.generate import build_rollout, completed

if TYPE_CHECKING:
    from ppokit.config.prompt_settings import PromptSettings


def recorded_rollout(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    policy: PolicyHandle,
    settings: PromptSettings,
    step: int,
    separator: str = "",
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> Rollout:
    """One recorded response to each prompt; equal prompts share a group.

    Args:
        step: from 1.
        separator: what stands between a plain prompt and its response.
        rows: a row of data for each, for the rewards that read columns; None where there is none.

    Raises:
        DataError: a text is missing, or leaves no room in the model's context.
    """
    context = policy.context_length
    encoded = encode_prompts(prompts, policy.tokenizer, chat=settings.chat, system=settings.system)
    generation = completed(as_generation(responses, policy, separator=separator), policy.version)
    for index, (prompt, response) in enumerate(zip(encoded, generation.response_ids, strict=True)):
        if not prompt:
            raise DataError(f"fit: prompt {index} is empty; expected at least one token.")
        if context is not None and len(prompt) + len(response) > context:
            raise DataError(
                f"fit: prompt and response {index} have {len(prompt)} and {len(response)} tokens; the "
                f"model's context holds {context}. Shorten or drop them."
            )
    first: dict[str, int] = {}
    batch = PromptBatch(
        [first.setdefault(prompt, index) for index, prompt in enumerate(prompts)],
        list(prompts),
        encoded,
        [{}] * len(prompts) if rows is None else list(rows),
    )
    ids = [f"{step:06d}-fit-{index:06d}" for index in range(len(prompts))]
    return build_rollout(batch, generation, ids, 1)
