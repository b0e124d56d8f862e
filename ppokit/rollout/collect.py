"""Collect: prompts, or recorded texts, to rollouts with all that the recipe's components need of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppokit.data.batches import TokenBatch
from ppokit.data.tables import clear_parsed
from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.policy import Policy, PolicyView

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ppokit.config.settings import Settings
    from ppokit.models.roles import ModelRoles
    from ppokit.plugin.evaluating import LogitReader
    from ppokit.plugin.protocols import Need
    from ppokit.rollout.generate import ResponseGenerator
    from ppokit.training.microbatches import MicroBatch, MicroBatcher, StepBatches


@dataclass(frozen=True)
class Collector:
    """Answers prompts with the policy as it is, and computes what is needed of the answers.

    Attributes:
        generator: the recipe's rollout engine.
        roles: the models.
        tokenizer: theirs.
        policy_hash: SHA-256 of the policy's trained weights.
        microbatches: those of the step, which the update will have too.
        settings: the recipe's.
        needs: what the recipe's components need of a rollout before the update.
        phase: times a phase of a step by its name.
    """

    generator: ResponseGenerator
    roles: ModelRoles
    tokenizer: PreTrainedTokenizerBase
    policy_hash: Callable[[], str]
    microbatches: MicroBatcher
    settings: Settings
    needs: frozenset[Need]
    phase: Callable[[str], AbstractContextManager[None]]

    def policy(self, step: int) -> Policy:
        """The policy's handle in a step, from 1; each step before it was one update."""
        return Policy.of(
            self.roles.model,
            self.tokenizer,
            end_tokens=self.settings.rollout.end_tokens,
            version=step - 1,
            get_model=self.roles.sampler,
            save=self.roles.save_policy,
            get_hash=self.policy_hash,
        )

    def view(self, step: int) -> PolicyView:
        """The policy in a step, to be asked for itself."""
        return PolicyView(
            self.policy(step),
            self.generator,
            self.settings.prompts,
            lambda rollout: self._forward(
                "logprobs", self.microbatches.whole(rollout), self._policy_logprobs
            ),
        )

    def collect(
        self,
        prompts: PromptBatch,
        step: int,
        *,
        updates: int | None = None,
        on_answered: Callable[[Rollout], None] | None = None,
    ) -> Rollout:
        """Sampled responses, and greedy ones where a component needs them.

        Args:
            step: that trains on them, from 1.
            updates: that the policy has had; one less than the step, unless given.
            on_answered: hears of the sampled responses before anything is computed of them.
        """
        updates = step - 1 if updates is None else updates
        rollout = self._answered(prompts, step, updates, greedy=False)
        if on_answered is not None and not bool(rollout.sampler_logprobs.isnan().any()):  # else they change
            on_answered(rollout)
        rollout = self.computed(rollout, self.needs, self.microbatches.divide(rollout, step))
        if "greedy" in self.needs:
            greedy = self._answered(prompts, step, updates, greedy=True)
            rollout = replace(rollout, greedy=self.computed(greedy, self.needs - {"values"}))
        clear_parsed()  # an engine may read its file when it first answers
        return rollout

    def recorded(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        step: int,
        *,
        minibatches: int | None = None,
    ) -> Rollout:
        """Recorded responses, one per prompt, with the policy's log-probabilities and what is needed of them.

        Args:
            step: from 1.
            minibatches: the recipe's, unless given.

        Raises:
            DataError: a prompt is empty, or leaves no room for its response in the model's context.
        """
        rollout = self.view(step).recorded(prompts, responses, step=step)
        batches = self.microbatches.divide(rollout, step, minibatches)
        return self.computed(rollout, self.needs | {"old_logprobs"}, batches)

    def read_logits(self, rollout: Rollout, read: LogitReader) -> Tensor:
        """[B,R,K] float32 what `read` makes of the policy's logits, see `EvaluationView.read_logits`."""

        def compute(micro: MicroBatch) -> Tensor:
            batch = micro.batch
            responses = torch.tensor(micro.indices, device=batch.slots.device)
            own, positions = batch.slots // batch.mask.shape[1], batch.slots % batch.mask.shape[1]
            chunks = [
                read(logits, responses[own[part]], positions[part])
                for part, logits in self.roles.logits(batch, "policy")
            ]
            return _scattered(torch.cat(chunks), batch)

        return self.microbatches.whole(rollout).forward_indexed(compute)

    def beside_reference(self, rollout: Rollout) -> Tensor:
        """[B,R,2] of each token: KL of policy p from reference q in its place, and its ln q; 0 on padding.

            KL(p || q) = sum_v p_v ln(p_v / q_v)

        in nats over the whole vocabulary at the sampling temperature: greedy responses have it too.
        """
        temperature = self.settings.rollout.temperature

        def compute(batch: TokenBatch) -> Tensor:
            flat = torch.zeros(len(batch.targets), 2, device=batch.targets.device)
            both = zip(self.roles.logits(batch, "policy"), self.roles.logits(batch, "reference"), strict=True)
            for (part, policy), (_, reference) in both:
                log_p, log_q = (logits.div(temperature).log_softmax(-1) for logits in (policy, reference))
                # A token that the model rules out has p = 0 and adds nothing.
                flat[part, 0] = (log_p.exp() * (log_p - log_q)).nan_to_num_(nan=0.0).sum(dim=-1)
                flat[part, 1] = log_q.gather(-1, batch.targets[part, None]).squeeze(-1)
            return _scattered(flat, batch)

        return self._forward("reference", self.microbatches.whole(rollout), compute)

    def _answered(self, prompts: PromptBatch, step: int, updates: int, *, greedy: bool) -> Rollout:
        settings = self.settings
        with self.phase("sampling"), self.roles.sampling():
            return self.generator.generate(
                self.policy(updates + 1),
                prompts,
                n=None if greedy else settings.rollout.responses_per_prompt,
                seed=settings.run.seed,
                step=step,
                policy_logprobs=not greedy,
            )

    def computed(
        self, rollout: Rollout, needs: frozenset[Need], batches: StepBatches | None = None
    ) -> Rollout:
        """The rollout with what is needed of it and is not there.

        Args:
            batches: its micro-batches, where it is trained on.
        """
        batches = batches or self.microbatches.whole(rollout)
        roles = self.roles
        temperature = self.settings.rollout.temperature
        computed: dict[str, Any] = {}
        known, by_sampler = rollout.policy_logprobs, self.settings.update.old_logprobs == "sampler"
        if by_sampler and "old_logprobs" in needs and known is not None and not known.isnan().any():
            rollout = replace(rollout, old_logprobs=known)
        wanted = needs if rollout.old_logprobs is None else needs - {"old_logprobs"}
        pair: frozenset[Need] = frozenset({"old_logprobs", "values"})
        if pair <= wanted and roles.value_mode != "own_adapter":  # both of one trunk, in one pass

            def both(batch: TokenBatch) -> Tensor:
                logprobs, _, values = roles.logprobs_and_values(batch, temperature=temperature)
                return torch.stack([logprobs, values], dim=-1)

            logprobs, values = self._forward("logprobs", batches, both).unbind(dim=-1)
            computed.update(old_logprobs=logprobs, values=values)
            wanted -= pair
        if "old_logprobs" in wanted:
            computed["old_logprobs"] = self._forward("logprobs", batches, self._policy_logprobs)
        if "ref_logprobs" in wanted:
            computed["ref_logprobs"] = self._forward(
                "reference", batches, lambda b: roles.logprobs(b, "reference", temperature=temperature)[0]
            )
        if "values" in wanted:
            computed["values"] = self._forward("values", batches, roles.values)
        stand_in = computed.get("ref_logprobs", computed.get("old_logprobs"))
        if stand_in is not None:  # of recorded responses nobody knows better
            drawn = rollout.sampler_logprobs
            computed["sampler_logprobs"] = stand_in.where(drawn.isnan(), drawn)
        return replace(rollout, **computed)

    def _policy_logprobs(self, batch: TokenBatch) -> Tensor:
        return self.roles.logprobs(batch, "policy", temperature=self.settings.rollout.temperature)[0]

    def _forward(self, phase: str, batches: StepBatches, compute: Callable[[TokenBatch], Tensor]) -> Tensor:
        """Numbers of every response token, see `StepBatches.forward`, as a phase of its own."""
        with self.phase(phase):
            return batches.forward(compute)


def _scattered(flat: Tensor, batch: TokenBatch) -> Tensor:
    """[b,R,K] of the numbers [N,K] of a batch's tokens; 0 elsewhere."""
    return torch.stack([batch.scatter(numbers) for numbers in flat.unbind(dim=-1)], dim=-1)
