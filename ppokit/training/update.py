"""Update: epochs over a rollout, in mini-batches, each an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.distributed import Processes
from ppokit.models.roles import ModelRoles
from ppokit.plugin.kl_estimators import kl
from ppokit.plugin.masked import masked_whiten
from ppokit.plugin.types import Advantages, Rollout
from ppokit.training.advantages import select_trained
from ppokit.training.aggregation import MetricAccumulator, token_weights
from ppokit.training.backend import Backend
from ppokit.training.gradients import TrainingData, accumulate_gradients
from ppokit.training.losses import grouped
from ppokit.training.metrics import KL_ESTIMATORS
from ppokit.training.microbatches import MicroBatcher, StepBatches
from ppokit.training.parity import ParityCheck
from ppokit.training.schedule import learning_rate_at
from ppokit.training.token_record import COLUMNS, TokenRecord

if TYPE_CHECKING:
    from ppokit.config.settings import Settings


class Updater:
    """Trains the policy (and value) on rollouts.

    Args:
        backend: owns the weights.
        microbatches: those of the step, which the passes before the update had too.
        settings: the recipe's.
        parity: compares the sampler with the policy that trains, before a weight moves.

    Attributes:
        record: numbers of single tokens of the last update; None before it, or where the recipe wants none.
    """

    def __init__(
        self,
        roles: ModelRoles,
        backend: Backend,
        losses: Sequence[BuiltComponent],
        microbatches: MicroBatcher,
        settings: Settings,
        processes: Processes,
        parity: ParityCheck,
    ) -> None:
        self.roles = roles
        self.parity = parity
        self.backend = backend
        self.microbatches = microbatches
        self.settings = settings
        self.processes = processes
        self.temperature = settings.rollout.temperature
        self.groups = grouped(losses, one_trunk=roles.value_mode != "own_adapter")
        self.record: TokenRecord | None = None

    def update(
        self,
        rollout: Rollout,
        advantages: Advantages,
        step: int,
        *,
        epochs: int | None = None,
        minibatches: int | None = None,
    ) -> dict[str, float]:
        """One step's training on the responses of `advantages.trained`; returns metrics over their tokens.

        After an error the weights are those before the step.

        Args:
            step: the one that this is, from 1.
            epochs, minibatches: the recipe's, unless given.

        Raises:
            TrainingError: the sampler answered with another policy.
            NonFiniteError: a loss or gradient is not finite.
            PluginError: a loss broke its contract.
        """
        settings = self.settings.update
        by_another = settings.old_logprobs == "sampler" or self.settings.overlaps
        rollout, advantages = select_trained(rollout, advantages, keep_old_logprobs=by_another)
        epochs = epochs or settings.epochs
        batches = self.microbatches.divide(rollout, step, minibatches)
        if epochs * batches.minibatches == 1:
            # Its only pass checks before it moves.
            return self._train(rollout, advantages, step, epochs, batches)
        with self.backend.rollback_on_error():
            return self._train(rollout, advantages, step, epochs, batches)

    def _train(
        self, rollout: Rollout, advantages: Advantages, step: int, epochs: int, batches: StepBatches
    ) -> dict[str, float]:
        """The passes over a rollout."""
        settings, accumulator = self.settings.update, MetricAccumulator(advantages.metrics)
        old = self._old_logprobs(rollout, batches)
        by_sampler = settings.old_logprobs == "sampler"
        first = torch.full_like(old, math.nan) if by_sampler else old.clone()
        logprob_gap: float | None = None
        learning_rate = learning_rate_at(settings, step, self.settings.run.steps)
        passes, stopped = 0, False
        record = TokenRecord(rollout.ids, old.shape[1]) if self.settings.run.token_columns else None
        for epoch in range(epochs):
            for minibatch, micros in batches.epoch(epoch):
                data = TrainingData(
                    rollout=rollout,
                    advantages=self._whitened(advantages, rollout.loss_mask, minibatch),
                    old_logprobs=old,
                    first_logprobs=first,
                    weights=self._weights(rollout.loss_mask, minibatch),
                    before_first_step=passes == 0,
                    record=record,
                )
                approx_kl = accumulate_gradients(
                    data, micros, self.groups, self.backend, self.processes, self.temperature, accumulator
                )
                if passes == 0:
                    logprob_gap = self.parity.check(rollout, first, version=step - 1)
                if settings.target_kl is not None and approx_kl > settings.target_kl:
                    stopped = True
                    break
                accumulator.count_pass(self.backend.clip(settings.max_grad_norm))
                self.backend.step(learning_rate)
                passes += 1
            if stopped:
                break
        self._add_kl(rollout, old, batches, accumulator, record)
        if record is not None:
            record.gather(self.processes)
        self.record = record
        metrics = accumulator.means(self.processes)
        if "policy/ratio_std_at_start" in metrics:
            metrics["policy/ratio_std_at_start"] = math.sqrt(metrics["policy/ratio_std_at_start"])
        if logprob_gap is not None:
            metrics["rollout/logprob_gap"] = logprob_gap
        metrics["update/passes"] = float(passes)
        metrics["learning_rate"] = learning_rate
        if settings.target_kl is not None:
            metrics["update/stopped_by_target_kl"] = float(stopped)
        return metrics

    def _old_logprobs(self, rollout: Rollout, batches: StepBatches) -> Tensor:
        """[B,R] under the policy before the update; NaN where the first pass over a response gives them.

        Where several mini-batches move the weights, they are taken before the first of them.
        """
        if rollout.old_logprobs is not None:
            return rollout.old_logprobs
        if batches.minibatches > 1 and any("old_logprobs" in group.needs for group in self.groups):
            return batches.forward(
                lambda batch: self.roles.logprobs(batch, "policy", temperature=self.temperature)[0]
            )
        return torch.full(rollout.response_ids.shape, math.nan)

    def _weights(self, mask: Tensor, minibatch: list[int]) -> Tensor:
        """[B,R] of each token of a mini-batch in the loss; 0 outside it."""
        weights = torch.zeros(mask.shape)
        weights[minibatch] = token_weights(
            mask[minibatch], self.settings.update.aggregation, self.settings.rollout.max_new_tokens
        )
        return weights

    def _whitened(self, advantages: Advantages, mask: Tensor, minibatch: list[int]) -> Advantages:
        """With `whiten: minibatch`, its advantages have mean 0 and variance 1 over its real tokens."""
        settings = self.settings.advantages
        if settings.whiten != "minibatch":
            return advantages
        numbers = advantages.advantages.clone()
        numbers[minibatch] = masked_whiten(
            numbers[minibatch], mask[minibatch], variance=settings.whiten_variance
        )
        return replace(advantages, advantages=numbers)

    def _add_kl(
        self,
        rollout: Rollout,
        old: Tensor,
        batches: StepBatches,
        accumulator: MetricAccumulator,
        record: TokenRecord | None,
    ) -> None:
        """KL of the policy before the update from the reference, over the responses trained on."""
        if rollout.ref_logprobs is None:
            return
        for micro in (micro for micros in batches.micros for micro in micros):
            if not bool(old[micro.indices].isnan().any()):
                for estimator in KL_ESTIMATORS:
                    numbers = kl(old[micro.indices], rollout.ref_logprobs[micro.indices], estimator=estimator)
                    accumulator.add(f"kl/{estimator}", numbers, rollout.loss_mask[micro.indices])
                    if record is not None and f"kl/{estimator}" in COLUMNS:
                        record.put(f"kl/{estimator}", micro.indices, numbers)
