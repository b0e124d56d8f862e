"""Fit: one PPO update on recorded, rated responses instead of sampled ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppokit.data.prompts import encode_prompts
from ppokit.errors import DataError
from ppokit.plugin.generation import PolicyHandle
from ppokit.plugin.protocols import CheckContext
from ppokit.plugin.recorded import as_generation
from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.generate import build_rollout, completed

if TYPE_CHECKING:
    from ppokit.config.prompt_settings import PromptSettings
    from ppokit.config.settings import SelectedComponent


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


def check_given(
    prompts: Sequence[str], responses: Sequence[str], rewards: Sequence[float], epochs: int
) -> None:
    """What fit is given can be trained on.

    Raises:
        DataError: lengths differ, nothing was given, a text is no text, or a reward no finite number.
    """
    sizes = (len(prompts), len(responses), len(rewards))
    if len(set(sizes)) != 1 or not sizes[0]:
        raise DataError(
            f"fit: got {sizes[0]} prompts, {sizes[1]} responses and {sizes[2]} rewards; expected as many of "
            "each, at least one."
        )
    for name, texts in (("prompts", prompts), ("responses", responses)):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"fit: {name}[{index}] is {text!r}; expected text.")
    for index, number in enumerate(rewards):
        if isinstance(number, bool) or not math.isfinite(float(number)):
            raise DataError(f"fit: rewards[{index}] is {number!r}; expected a finite number.")
    if epochs < 1:
        raise DataError(f"fit: got epochs={epochs}; expected 1 or more.")


def check_estimator(chosen: SelectedComponent, prompts: Sequence[str]) -> None:
    """The estimator can do with recorded responses, and with as many to a prompt as there are.

    Raises:
        DataError: it cannot.
    """
    component = chosen.component
    if "greedy" in component.needs:
        raise DataError(
            f"fit: the advantages {component.name!r} compare with a greedy response to each prompt, which "
            "nobody rated. Choose another estimator in the recipe, such as gae or group_relative."
        )
    most = max(Counter(prompts).values())
    faults = () if component.check is None else component.check(chosen.options, CheckContext(None, most))
    for fault in faults:
        raise DataError(
            f"fit: at most {most} of the responses answer the same prompt, which the advantages "
            f"{component.name!r} cannot do with: {fault}"
        )
