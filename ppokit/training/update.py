"""Update: epochs over a rollout, in mini-batches, in micro-batches cut by tokens.

Losses are weighed by counts over the whole mini-batch (see `aggregation`), gradients add up in fp32, and
no weight moves before every number is known to be finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ppokit.data.batches import TokenBatch, sequence_lengths, token_batch
from ppokit.distributed import Processes
from ppokit.errors import NonFiniteError, TrainingError
from ppokit.messages import listed
from ppokit.models.logprobs import Entropy
from ppokit.models.roles import ModelRoles
from ppokit.plugin.batching import token_batches
from ppokit.plugin.kl_estimators import kl
from ppokit.plugin.masked import Variance, masked_whiten
from ppokit.plugin.types import Advantages, LossInputs, Rollout
from ppokit.seeds import seed_from
from ppokit.training.aggregation import Aggregation, MetricAccumulator, token_weights
from ppokit.training.losses import Failure, LossGroup, WeightedLoss, grouped
from ppokit.training.metrics import KL_ESTIMATORS
from ppokit.training.optimizer import MasterWeights

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class UpdatePlan:
    """How to train on a rollout; the fields are the recipe's, under `update`.

    Attributes:
        steps: of the whole run; the learning rate's schedule ends there.
        temperature: at which log-probabilities are taken.
        max_response: the longest possible response, for the aggregation `constant`.
        whiten: the variance by which each mini-batch's advantages are whitened; None leaves them.
    """

    epochs: int
    minibatches: int
    learning_rate: float
    schedule: Schedule
    warmup_steps: int
    max_grad_norm: float
    tokens_per_microbatch: int
    aggregation: Aggregation
    target_kl: float | None
    steps: int
    seed: int
    temperature: float
    max_response: int
    whiten: Variance | None = None

    def learning_rate_at(self, step: int) -> float:
        """Of a step, from 0: linear warm-up, then constant, or down to 0 after the last step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        factor = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        }[self.schedule]
        return self.learning_rate * factor


class Updater:
    """Trains the policy (and value) on rollouts."""

    def __init__(
        self,
        roles: ModelRoles,
        master_weights: MasterWeights,
        losses: Sequence[WeightedLoss],
        plan: UpdatePlan,
        processes: Processes,
    ) -> None:
        self.roles = roles
        self.master_weights = master_weights
        self.plan = plan
        self.processes = processes
        self.losses = list(losses)
        self.groups = grouped(self.losses, one_trunk=roles.value_mode != "own_adapter")

    def update(
        self,
        rollout: Rollout,
        advantages: Advantages,
        step: int,
        *,
        epochs: int | None = None,
        minibatches: int | None = None,
    ) -> dict[str, float]:
        """One step's training; returns metrics, means over all real tokens trained on.

        After an error the weights are those before the step.

        Args:
            epochs, minibatches: the plan's, unless given.

        Raises:
            TrainingError: several mini-batches, and no log-probabilities from before the first of them.
            NonFiniteError: a loss or gradient is not finite.
            PluginError: a loss broke its contract.
        """
        plan = replace(
            self.plan,
            epochs=epochs or self.plan.epochs,
            minibatches=minibatches or self.plan.minibatches,
        )
        if (
            plan.minibatches > 1
            and rollout.old_logprobs is None
            and any("old_logprobs" in g.needs for g in self.groups)
        ):
            raise TrainingError(
                f"update: {plan.minibatches} mini-batches need the rollout's old_logprobs from before the "
                "first of them moves the policy; set update.minibatches in the recipe, so that they are "
                "computed."
            )
        if plan.epochs * plan.minibatches == 1:
            return self._train(rollout, advantages, step, plan)  # its only pass checks before it moves
        with self.master_weights.rollback_on_error():
            return self._train(rollout, advantages, step, plan)

    def _train(
        self, rollout: Rollout, advantages: Advantages, step: int, plan: UpdatePlan
    ) -> dict[str, float]:
        """The passes over a rollout."""
        accumulator = MetricAccumulator()
        # Filled by the first pass over each sample where no earlier pass has been needed.
        old = rollout.old_logprobs
        if old is None:
            old = torch.full(rollout.response_ids.shape, math.nan)
        lengths = sequence_lengths(rollout)
        passes, stopped = 0, False
        for epoch in range(plan.epochs):
            generator = torch.Generator().manual_seed(seed_from(plan.seed, step, epoch))
            order = torch.randperm(len(rollout), generator=generator).tolist()
            for place in range(plan.minibatches):
                first, last = (len(order) * k // plan.minibatches for k in (place, place + 1))
                minibatch = order[first:last]
                if not minibatch:
                    continue
                seen = advantages
                if plan.whiten is not None:
                    seen = _whitened(advantages, rollout.response_mask, minibatch, plan.whiten)
                weights = torch.zeros(rollout.response_ids.shape)
                weights[minibatch] = token_weights(
                    rollout.response_mask[minibatch], plan.aggregation, plan.max_response
                )
                longest_first = sorted(minibatch, key=lambda i: (-lengths[i], i))
                mine = longest_first[self.processes.rank :: self.processes.count]
                self.master_weights.zero()
                approx_kl = self._accumulate(rollout, seen, old, weights, mine, lengths, accumulator)
                if plan.target_kl is not None and approx_kl > plan.target_kl:
                    stopped = True
                    break
                self._step(accumulator, step)
                passes += 1
            if stopped:
                break
        metrics = accumulator.means(self.processes)
        metrics["update/passes"] = float(passes)
        metrics["learning_rate"] = plan.learning_rate_at(step)
        if plan.target_kl is not None:
            metrics["update/stopped_by_target_kl"] = float(stopped)
        return metrics

    def _accumulate(
        self,
        rollout: Rollout,
        advantages: Advantages,
        old: Tensor,
        weights: Tensor,
        mine: list[int],
        lengths: list[int],
        accumulator: MetricAccumulator,
    ) -> float:
        """Gradients of one mini-batch; returns its approximate KL from the policy that sampled."""
        kl_sum, tokens, failure = 0.0, 0, ""
        accumulator.start_pass()
        for micro in token_batches(mine, lengths, self.plan.tokens_per_microbatch):
            batch = token_batch(rollout, micro, self.roles.device)
            for group in self.groups:
                inputs = self._inputs(group, rollout, advantages, old, micro, batch, accumulator)
                if inputs.new_logprobs is not None and inputs.old_logprobs is not None:
                    kl_tokens = kl(inputs.old_logprobs, inputs.new_logprobs.detach(), estimator="k3")
                    accumulator.add("policy/approx_kl", kl_tokens, batch.mask)
                    kl_sum += float(kl_tokens.where(batch.mask, kl_tokens.new_zeros(())).sum())
                    tokens += int(batch.mask.sum())
                found = group.backward(inputs, weights[micro].to(self.roles.device), accumulator)
                if found is None and not self.master_weights.finite():
                    found = Failure("the gradient is not finite")
                if found is not None:
                    failure = _named(found, [rollout.ids[i] for i in micro])
                    break
            if failure:
                break
        # Every process learns of a failure anywhere, and all stop together.
        failures = self.processes.gather([failure] if failure else [])
        if failures:
            self.master_weights.zero()
            raise NonFiniteError(
                f"the step was not taken: {failures[0]}. Look these samples up in the run's "
                "rollouts/; a smaller update.learning_rate or bounded rewards (rewards[].clip) often help."
            )
        sums = torch.tensor([kl_sum, float(tokens)], dtype=torch.float64)
        self.processes.sum([sums])
        return float(sums[0] / sums[1].clamp(min=1))

    def _inputs(
        self,
        group: LossGroup,
        rollout: Rollout,
        advantages: Advantages,
        old: Tensor,
        micro: list[int],
        batch: TokenBatch,
        accumulator: MetricAccumulator,
    ) -> LossInputs:
        """Forward pass of one group of losses over one micro-batch."""
        roles, device = self.roles, self.roles.device
        temperature = self.plan.temperature
        logprobs = entropy = values = None
        wanted: Entropy = "gradient" if "entropy" in group.needs else "value"
        if group.policy and group.value:
            logprobs, entropy, values = roles.logprobs_and_values(
                batch, temperature=temperature, entropy=wanted
            )
        elif group.policy:
            logprobs, entropy = roles.logprobs(batch, "policy", temperature=temperature, entropy=wanted)
        else:
            values = roles.values(batch)
        if logprobs is not None:
            seen = ~old[micro].isnan().any(dim=1)
            if not bool(seen.all()):
                old[micro] = logprobs.detach().cpu()
                if rollout.ref_logprobs is not None:  # of the policy that sampled, now that it is known
                    for estimator in KL_ESTIMATORS:
                        numbers = kl(old[micro], rollout.ref_logprobs[micro], estimator=estimator)
                        accumulator.add(f"kl/{estimator}", numbers, rollout.response_mask[micro])

        def there(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[micro].to(device)

        return LossInputs(
            mask=batch.mask,
            advantages=advantages.advantages[micro].to(device),
            returns=there(advantages.returns),
            sampler_logprobs=rollout.sampler_logprobs[micro].to(device),
            new_logprobs=logprobs,
            old_logprobs=there(old) if logprobs is not None else None,
            ref_logprobs=there(rollout.ref_logprobs),
            values=values,
            old_values=there(rollout.values) if values is not None else None,
            entropy=entropy,
        )

    def _step(self, accumulator: MetricAccumulator, step: int) -> None:
        """Add up the processes' gradients, clip them, move the weights."""
        gradients = self.master_weights.gradients()
        self.processes.sum(gradients)
        norm = torch.stack(torch._foreach_norm(gradients, 2, torch.float64)).norm()
        if norm > self.plan.max_grad_norm:
            torch._foreach_mul_(gradients, self.plan.max_grad_norm / float(norm))
        self.master_weights.step(self.plan.learning_rate_at(step))
        self.master_weights.zero()
        accumulator.count_pass(float(norm))


def _named(failure: Failure, ids: Sequence[str]) -> str:
    """A failure and its samples: those whose own losses are not finite, else all of the micro-batch."""
    if failure.rows:
        noun = "sample" if len(failure.rows) == 1 else "samples"
        return f"{failure.what}, by the {noun} {listed(ids[row] for row in failure.rows)}"
    return f"{failure.what} in a micro-batch of the samples {listed(ids)}"


def _whitened(
    advantages: Advantages, mask: Tensor, minibatch: Sequence[int], variance: Variance
) -> Advantages:
    """The advantages of a mini-batch with mean 0 and variance 1 over its real tokens."""
    whole = advantages.advantages.clone()
    whole[minibatch] = masked_whiten(whole[minibatch], mask[minibatch], variance=variance)
    return replace(advantages, advantages=whole)
