"""Collect: prompts, or recorded texts, to rollouts with all that the recipe's components need of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppokit.config.settings import Settings
from ppokit.data.batches import TokenBatch, forward_all
from ppokit.plugin.protocols import Need, SamplingPolicy
from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.generate import generate
from ppokit.rollout.recorded import recorded_rollout

if TYPE_CHECKING:
    from ppokit.build import TrainerComponents
    from ppokit.evaluation.canary import HeldOut


class Collector:
    """Answers prompts with the policy as it is, and computes what is needed of the answers.

    Args:
        components: of the trainer.
        settings: the recipe's.
        plugin: how errors name the rollout engine.
        phase: times a phase of a step by its name.
    """

    def __init__(
        self,
        components: TrainerComponents,
        settings: Settings,
        plugin: str,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.components = components
        self.settings = settings
        self.plugin = plugin
        self.phase = phase

    def collect(self, prompts: PromptBatch, step: int) -> Rollout:
        """Sampled responses, and greedy ones where a component needs them."""
        needs = self.components.needs_before_update
        rollout = self._computed(self._answered(prompts, step, greedy=False), needs)
        if "greedy" in needs:
            greedy = self._computed(self._answered(prompts, step, greedy=True), needs - {"values"})
            rollout = replace(rollout, greedy=greedy)
        return rollout

    def recorded(self, prompts: Sequence[str], responses: Sequence[str], step: int) -> Rollout:
        """Recorded responses, one to each prompt, with their log-probabilities and what training needs.

        Raises:
            DataError: a text is missing, or leaves no room in the model's context.
        """
        return self._computed(
            self._recorded(prompts, responses, step), self.components.needs_before_update | {"old_logprobs"}
        )

    def held_out(self, rated: HeldOut, step: int) -> Rollout:
        """The canary's responses, with their log-probabilities and what the rewards need.

        Raises:
            DataError: as `recorded`.
        """
        rollout = self._recorded(
            rated.prompts, rated.responses, step, separator=rated.separator, rows=rated.rows
        )
        return self._computed(rollout, self.components.reward_needs | {"old_logprobs"})

    def _recorded(self, prompts: Sequence[str], responses: Sequence[str], step: int, **more: Any) -> Rollout:
        return recorded_rollout(
            prompts,
            responses,
            policy=SamplingPolicy(
                self.components.roles.model, self.components.tokenizer, self.components.end_ids
            ),
            settings=self.settings.prompts,
            step=step,
            **more,
        )

    def _answered(self, prompts: PromptBatch, step: int, *, greedy: bool) -> Rollout:
        components = self.components
        with self.phase("sampling"):
            return generate(
                components.engine,
                SamplingPolicy(components.roles.sampler(), components.tokenizer, components.end_ids),
                prompts,
                responses_per_prompt=None if greedy else self.settings.rollout.responses_per_prompt,
                seed=self.settings.run.seed,
                step=step,
                processes=components.processes,
                plugin=self.plugin,
            )

    def _computed(self, rollout: Rollout, needs: frozenset[Need]) -> Rollout:
        """The rollout with what is needed of it."""
        roles, temperature = self.components.roles, self.components.engine.temperature
        computed: dict[str, Any] = {}
        if self.settings.update.old_logprobs == "trainer" or "old_logprobs" not in needs:
            rollout = replace(rollout, old_logprobs=None)
        wanted = needs if rollout.old_logprobs is None else needs - {"old_logprobs"}
        pair: frozenset[Need] = frozenset({"old_logprobs", "values"})
        if pair <= wanted and roles.value_mode != "own_adapter":  # both of one trunk, in one pass

            def both(batch: TokenBatch) -> Tensor:
                logprobs, _, values = roles.logprobs_and_values(batch, temperature=temperature)
                return torch.stack([logprobs, values], dim=-1)

            computed["old_logprobs"], computed["values"] = self._forward("logprobs", rollout, both).unbind(
                dim=-1
            )
            wanted -= pair
        if "old_logprobs" in wanted:
            computed["old_logprobs"] = self._forward(
                "logprobs", rollout, lambda b: roles.logprobs(b, "policy", temperature=temperature)[0]
            )
        if "ref_logprobs" in wanted:
            computed["ref_logprobs"] = self._forward(
                "reference", rollout, lambda b: roles.logprobs(b, "reference", temperature=temperature)[0]
            )
        if "values" in wanted:
            computed["values"] = self._forward("values", rollout, roles.values)
        known = computed.get("ref_logprobs", computed.get("old_logprobs"))
        if known is not None:  # of recorded responses nobody knows better
            drawn = rollout.sampler_logprobs
            computed["sampler_logprobs"] = known.where(drawn.isnan(), drawn)
        return replace(rollout, **computed)

    def _forward(self, phase: str, rollout: Rollout, compute: Callable[[TokenBatch], Tensor]) -> Tensor:
        """Numbers of every response token, see `forward_all`, as a phase of its own."""
        with self.phase(phase):
            budget = self.settings.update.tokens_per_microbatch
            return forward_all(
                compute, rollout, self.components.roles.device, self.components.processes, budget
            )
