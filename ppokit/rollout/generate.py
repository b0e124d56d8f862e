"""Collect: prompts to a `Rollout`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppokit.distributed import Processes
from ppokit.errors import PluginError
from ppokit.plugin.protocols import RolloutEngine, SamplingPolicy
from ppokit.plugin.types import Generation, PromptBatch, Rollout
from ppokit.seeds import seed_from


def draw_uniforms(seed: int, step: int, prompts: int, responses: int, tokens: int, refill: int = 0) -> Tensor:
    """[prompts, responses, tokens] float32 in [0, 1): the randomness of a step's responses."""
    place = (seed, step, -refill) if refill else (seed, step)
    generator = torch.Generator().manual_seed(seed_from(*place))
    return torch.rand(prompts, responses, tokens, generator=generator)


def generate(
    engine: RolloutEngine,
    policy: SamplingPolicy,
    prompts: PromptBatch,
    *,
    responses_per_prompt: int | None,
    seed: int,
    step: int,
    processes: Processes,
    plugin: str,
) -> Rollout:
    """Answer each prompt G times; each process answers its share, every one gets all of them.

    Args:
        responses_per_prompt: G; None for one greedy response per prompt.

    Raises:
        PluginError: the engine broke its contract.
    """
    uniforms = None
    if responses_per_prompt is not None:
        uniforms = draw_uniforms(
            seed, step, len(prompts), responses_per_prompt, engine.max_new_tokens, prompts.resample_round
        )
    count = responses_per_prompt or 1
    share = processes.share(len(prompts))
    mine = PromptBatch(
        prompts.indices[share.start : share.stop],
        prompts.prompts[share.start : share.stop],
        prompts.prompt_ids[share.start : share.stop],
        prompts.rows[share.start : share.stop],
        prompts.resample_round,
    )
    answered = Generation([], [], [], [], [])
    if len(mine):
        answered = engine.generate(
            policy, mine, None if uniforms is None else uniforms[share.start : share.stop]
        )
        _check(answered, len(mine) * count, plugin)
    answered = Generation(
        response_ids=processes.gather(answered.response_ids),
        sampler_logprobs=processes.gather(answered.sampler_logprobs),
        finished=processes.gather(answered.finished),
        texts=processes.gather(answered.texts),
        policy_logprobs=_gathered(answered.policy_logprobs, processes),
    )
    suffix = f"r{prompts.resample_round}" if prompts.resample_round else ""
    names = [
        f"{step + 1:06d}{suffix}-{place // count:04d}-"
        + ("greedy" if uniforms is None else f"{place % count:03d}")
        for place in range(len(prompts) * count)
    ]
    return build_rollout(prompts, answered, names, count)


def _gathered(numbers: list[list[float]] | None, processes: Processes) -> list[list[float]] | None:
    """Of all processes; None where one of them has none. A process without prompts holds nobody up."""
    told = processes.gather([numbers is not None])
    everyone = processes.gather(numbers or [])
    return everyone if all(told) else None


def build_rollout(prompts: PromptBatch, answered: Generation, names: list[str], count: int) -> Rollout:
    """A rollout of `count` responses to each prompt, prompt by prompt."""
    repeated = [place for place in range(len(prompts)) for _ in range(count)]
    response_ids, mask = pad(answered.response_ids)

    def spread(numbers: list[list[float]]) -> Tensor:
        whole = torch.zeros(response_ids.shape)
        whole[mask] = torch.tensor([number for row in numbers for number in row])
        return whole

    return Rollout(
        ids=names,
        group_ids=torch.tensor([prompts.indices[place] for place in repeated]),
        prompts=[prompts.prompts[place] for place in repeated],
        responses=list(answered.texts),
        rows=[prompts.rows[place] for place in repeated],
        prompt_ids=[prompts.prompt_ids[place] for place in repeated],
        response_ids=response_ids,
        response_mask=mask,
        finished=torch.tensor(answered.finished),
        sampler_logprobs=spread(answered.sampler_logprobs),
        old_logprobs=None if answered.policy_logprobs is None else spread(answered.policy_logprobs),
    )


def pad(responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Responses of several lengths as [B,R] ids and their mask."""
    width = max(map(len, responses), default=0)
    ids = torch.zeros(len(responses), width, dtype=torch.long)
    mask = torch.zeros(len(responses), width, dtype=torch.bool)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.tensor(response, dtype=torch.long)
        mask[row, : len(response)] = True
    return ids, mask


def _check(answered: Generation, expected: int, plugin: str) -> None:
    counts = {name: len(value) for name, value in vars(answered).items() if value is not None}
    if set(counts.values()) != {expected}:
        raise PluginError(
            f"rollout engine {plugin} returned {counts}; expected {expected} of each "
            "(prompts x responses per prompt). Recipe: rollout.use."
        )
    for numbers in filter(None, (answered.sampler_logprobs, answered.policy_logprobs)):
        for place, (ids, row) in enumerate(zip(answered.response_ids, numbers, strict=True)):
            if not ids or len(ids) != len(row):
                raise PluginError(
                    f"rollout engine {plugin} returned {len(ids)} tokens and {len(row)} "
                    f"log-probabilities for response {place}; expected as many of each, at least one. "
                    "Recipe: rollout.use."
                )
