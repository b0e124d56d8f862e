"""Generate: prompts to a `Rollout`, by whatever rollout engine the recipe names."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.config.recipe import Recipe
from ppokit.distributed import Processes
from ppokit.errors import ModelError, RolloutError, plugin_call
from ppokit.plugin.generation import (
    Generation,
    GenerationRequest,
    PolicyHandle,
    ResponseSeeds,
    SamplingParams,
)
from ppokit.plugin.protocols import BuildContext
from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.check_generation import check_generation


@dataclass(frozen=True)
class ResponseGenerator:
    """The recipe's rollout engine, and all that is the same in each of its calls.

    Attributes:
        max_failed: largest share of failed responses in a call.
    """

    engine: BuiltComponent
    sampling: SamplingParams
    max_failed: float
    processes: Processes

    def generate(
        self,
        policy: PolicyHandle,
        prompts: PromptBatch,
        *,
        n: int | None,
        seed: int,
        step: int,
        policy_logprobs: bool = False,
        training: bool = True,
    ) -> Rollout:
        """Answer each prompt n times; each process answers its share, every one gets all of them.

        Args:
            n: responses per prompt; None for one greedy response per prompt.
            step: from 1.
            policy_logprobs, training: see `GenerationRequest`.

        Raises:
            PluginError: the engine failed or broke its contract.
            RolloutError: more responses failed than `run.max_failed_responses` allows.
        """
        self._check_stop(policy)
        share = self._share(len(prompts))
        seeds = None
        if n is not None:
            seeds = ResponseSeeds(seed, step, len(prompts), share, n, prompts.resample_round)
        ids = _sample_ids(prompts, n, step)
        request = GenerationRequest(
            prompts.select(share), n or 1, seeds, self.sampling, policy_logprobs, training
        )
        own_ids = ids[share.start * request.n : share.stop * request.n]
        own = Generation([], [], [], [])
        with self.processes.together():
            if self.engine.instance is not None and len(request):
                with plugin_call(self.engine.where, "generate"):
                    own = self.engine.instance.generate(policy, request)
                    check_generation(own, request, policy, own_ids)
        if not policy_logprobs:
            own = replace(own, policy_logprobs=None)
        elif own.policy_logprobs is None and self.sampling.whole_vocabulary:
            own = replace(own, policy_logprobs=own.sampler_logprobs)
        whole = _concat(self.processes.gather([completed(own, policy.version)] if len(request) else []))
        self._check_failed(whole, ids)
        return build_rollout(prompts, whole, ids, request.n)

    def close(self) -> None:
        """Let the engine close what it holds open."""
        close = getattr(self.engine.instance, "close", None)
        if close is not None:
            with plugin_call(self.engine.where, "close"):
                closing = close()
                if inspect.iscoroutine(closing):
                    asyncio.run(closing)

    def _share(self, prompts: int) -> range:
        """Which of so many prompts this process answers."""
        if self.engine.runs_on == "main":
            return range(prompts if self.processes.is_main else 0)
        return self.processes.share(prompts)

    def _check_stop(self, policy: PolicyHandle) -> None:
        largest = max(self.sampling.stop_token_ids, default=0)
        if largest >= policy.vocab_size:
            raise ModelError(
                f"rollout.stop_token_ids: got {largest}; expected token ids of the model, whose vocabulary "
                f"ends with {policy.vocab_size - 1}."
            )

    def _check_failed(self, generation: Generation, ids: Sequence[str]) -> None:
        failed = [index for index, outcome in enumerate(generation.outcomes) if outcome == "failed"]
        if len(failed) / max(1, len(ids)) > self.max_failed:  # not by a product: 0.29 * 100 is below 29
            first = failed[0]
            raise RolloutError(
                f"{self.engine.where} failed for {len(failed)} of {len(ids)} responses, more than "
                f"run.max_failed_responses allows ({self.max_failed:g} of them). First: sample {ids[first]}: "
                f"{generation.texts[first] or 'it gave no cause'}"
            )


def build_generator(recipe: Recipe, context: BuildContext, processes: Processes) -> ResponseGenerator:
    """What a recipe says of its rollout engine, as one object.

    Raises:
        PpokitError: the engine cannot be built.
    """
    engine, settings = recipe.engine.build(context, is_main=processes.is_main), recipe.settings
    return ResponseGenerator(engine, settings.rollout.sampling, settings.run.max_failed_responses, processes)


def _sample_ids(prompts: PromptBatch, n: int | None, step: int) -> list[str]:
    """Such as 000003-0001-000, prompt by prompt."""
    suffix = f"r{prompts.resample_round}" if prompts.resample_round else ""
    responses = ["greedy"] if n is None else [f"{k:03d}" for k in range(n)]
    return [f"{step:06d}{suffix}-{p:04d}-{name}" for p in range(len(prompts)) for name in responses]


def completed(generation: Generation, version: int) -> Generation:
    """The same with mask and versions filled in, and with nothing but the text of a failed response."""
    masks = generation.loss_mask or [[True] * len(ids) for ids in generation.response_ids]
    whole = replace(
        generation,
        loss_mask=masks,
        policy_version=generation.policy_version or [version] * len(generation.texts),
    )
    empty = [outcome == "failed" for outcome in generation.outcomes]
    if not any(empty):
        return whole
    per_token = ("response_ids", "sampler_logprobs", "policy_logprobs", "loss_mask")
    rows = {name: getattr(whole, name) for name in per_token}
    kept: dict[str, Any] = {
        name: [[] if failed else row for failed, row in zip(empty, value, strict=True)]
        for name, value in rows.items()
        if value is not None
    }
    return replace(whole, **kept)


def _concat(parts: Sequence[Generation]) -> Generation:
    """Those of several processes as one; a field that one of them lacks is None."""
    joined: dict[str, Any] = {}
    for field in fields(Generation):
        values = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if None in values else [item for value in values for item in value]
    return Generation(**joined)


def build_rollout(prompts: PromptBatch, generation: Generation, ids: list[str], n: int) -> Rollout:
    """A rollout of n responses per prompt, prompt by prompt, from a completed generation."""
    repeated = [index for index in range(len(prompts)) for _ in range(n)]
    response_ids, mask = pad(generation.response_ids)
    loss_mask = torch.zeros_like(mask)
    loss_mask[mask] = torch.tensor(
        [own for row in generation.loss_mask or [] for own in row], dtype=torch.bool
    )

    def padded(numbers: list[list[float]]) -> Tensor:
        whole = torch.zeros(response_ids.shape)
        whole[mask] = torch.tensor([number for row in numbers for number in row])
        return whole.where(loss_mask, torch.zeros(()))

    policy_logprobs = generation.policy_logprobs
    return Rollout(
        ids=ids,
        group_ids=torch.tensor([prompts.indices[index] for index in repeated]),
        prompts=[prompts.prompts[index] for index in repeated],
        responses=[
            text if outcome == "failed" else prompts.prefill + text
            for text, outcome in zip(generation.texts, generation.outcomes, strict=True)
        ],
        rows=[deepcopy(prompts.rows[index]) for index in repeated],  # nested values can be changed
        prompt_ids=[prompts.prompt_ids[index] for index in repeated],
        response_ids=response_ids,
        response_mask=mask,
        loss_mask=loss_mask,
        outcomes=list(generation.outcomes),
        policy_version=torch.tensor(generation.policy_version, dtype=torch.long),
        sampler_logprobs=padded(generation.sampler_logprobs),
        policy_logprobs=None if policy_logprobs is None else padded(policy_logprobs),
        prefill=prompts.prefill,
    )


def pad(responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Responses of several lengths as [B,R] ids and their mask; R is at least 1 where B is."""
    width = max((max(1, len(response)) for response in responses), default=0)
    ids = torch.zeros(len(responses), width, dtype=torch.long)
    mask = torch.zeros(len(responses), width, dtype=torch.bool)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.tensor(response, dtype=torch.long)
        mask[row, : len(response)] = True
    return ids, mask
