"""The gradient of one mini-batch, micro-batch by micro-batch.

Losses are weighed by counts over the whole mini-batch (see `aggregation`), so that the sum over micro-batches
and processes is that of the whole, and every number is known to be finite before a weight moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppokit.data.transfer import to_device
from ppokit.distributed import Processes
from ppokit.errors import NonFiniteError
from ppokit.messages import listed
from ppokit.models.logprobs import Entropy
from ppokit.plugin.kl_estimators import kl
from ppokit.plugin.types import Advantages, LossInputs, Rollout
from ppokit.training.aggregation import MetricAccumulator
from ppokit.training.backend import Backend
from ppokit.training.losses import LossGroup
from ppokit.training.microbatches import MicroBatch
from ppokit.training.readings import Failure
from ppokit.training.token_record import RECORDED, TokenRecord


@dataclass(frozen=True)
class TrainingData:
    """What a mini-batch is trained on, by the rollout's positions.

    Attributes:
        advantages: whitened, where the recipe says so.
        old_logprobs: [B,R]; rows of NaN are filled by the first pass over them, before which no weight moves.
        first_logprobs: [B,R]; filled by the passes before any weight has moved.
        weights: [B,R] of each token in the loss.
        before_first_step: whether no weight has moved since the rollout.
        record: keeps numbers of single tokens; None where nobody wants them.
    """

    rollout: Rollout
    advantages: Advantages
    old_logprobs: Tensor
    first_logprobs: Tensor
    weights: Tensor
    before_first_step: bool
    record: TokenRecord | None = None


def accumulate_gradients(
    data: TrainingData,
    micros: Sequence[MicroBatch],
    groups: Sequence[LossGroup],
    backend: Backend,
    processes: Processes,
    temperature: float,
    accumulator: MetricAccumulator,
) -> float:
    """Gradients of one mini-batch; returns its approximate KL from the policy that sampled.

    Args:
        micros: this process's part of it.
        temperature: at which log-probabilities are taken.

    Raises:
        NonFiniteError: a loss or a gradient is not finite, on any process.
        PluginError: a loss broke its contract.
    """
    failure = ""
    # Of the approximate KL: its sum and its tokens.
    sums = torch.zeros(2, dtype=torch.float64)

    def add_kl(total: float) -> None:
        sums[0] += total

    accumulator.start_pass()
    backend.zero()
    for micro in micros:
        mask = micro.batch.mask
        accumulator.on_tokens = _recorder(data.record, micro, accumulator)
        for group in groups:
            inputs = _inputs(data, micro, group, backend, temperature, accumulator)
            if inputs.new_logprobs is not None and inputs.old_logprobs is not None:
                kl_tokens = kl(inputs.old_logprobs, inputs.new_logprobs.detach(), estimator="k3")
                accumulator.add("policy/approx_kl", kl_tokens, mask, add_kl)
                sums[1] += len(micro.batch.targets)
            loss = group.loss(inputs, to_device(data.weights[micro.indices], mask.device), accumulator)
            accumulator.readings.add(backend.backward(loss), _check_gradient)
        reading = accumulator.readings.read()
        if reading is not None:
            failure = _named(reading, [data.rollout.ids[i] for i in micro.indices])
            break
    # Every process learns of a failure anywhere, and all stop together.
    failures = processes.gather([failure] if failure else [])
    if failures:
        backend.zero()
        raise NonFiniteError(
            f"the step was not taken: {failures[0]}. Look these samples up in the run's "
            "rollouts/; a smaller update.learning_rate or bounded rewards (rewards[].clip) often help."
        )
    processes.sum([sums])
    return float(sums[0] / sums[1].clamp(min=1))


def _inputs(
    data: TrainingData,
    micro: MicroBatch,
    group: LossGroup,
    backend: Backend,
    temperature: float,
    accumulator: MetricAccumulator,
) -> LossInputs:
    """Forward pass of one group of losses over one micro-batch."""
    rollout, indices, batch = data.rollout, micro.indices, micro.batch
    entropy_kind: Entropy = "gradient" if "entropy" in group.needs else "value"
    logprobs, entropy, values = backend.forward(
        batch, policy=group.policy, value=group.value, temperature=temperature, entropy=entropy_kind
    )

    def on_device(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else to_device(tensor[indices], batch.mask.device)

    old: Tensor | None = None
    if logprobs is not None:
        first_pass = bool(data.old_logprobs[indices].isnan().any())
        old = logprobs.detach() if first_pass else to_device(data.old_logprobs[indices], batch.mask.device)
        if data.before_first_step and not first_pass:
            accumulator.add("policy/ratio_std_at_start", (logprobs.detach() - old).square(), batch.mask)

        def keep(numbers: Tensor) -> None:
            if data.before_first_step:
                data.first_logprobs[indices] = numbers
            if first_pass:
                data.old_logprobs[indices] = numbers

        if data.before_first_step or first_pass:
            accumulator.readings.fetch(logprobs, keep)
        if data.record is not None:
            data.record.keep("log_ratio", indices, logprobs.detach() - old, accumulator.readings)
    if data.record is not None and values is not None:
        data.record.keep("new_values", indices, values, accumulator.readings)

    return LossInputs(
        mask=batch.mask,
        advantages=to_device(data.advantages.advantages[indices], batch.mask.device),
        returns=on_device(data.advantages.returns),
        sampler_logprobs=to_device(rollout.sampler_logprobs[indices], batch.mask.device),
        group_ids=on_device(rollout.group_ids),
        sample_ids=tuple(rollout.ids[index] for index in indices),
        new_logprobs=logprobs,
        old_logprobs=old,
        ref_logprobs=on_device(rollout.ref_logprobs),
        values=values,
        old_values=on_device(rollout.values) if values is not None else None,
        entropy=entropy,
    )


def _recorder(
    record: TokenRecord | None, micro: MicroBatch, accumulator: MetricAccumulator
) -> Callable[[str, Tensor], None] | None:
    """What keeps a micro-batch's numbers of tokens."""
    if record is None:
        return None

    def keep(name: str, numbers: Tensor) -> None:
        if name in RECORDED:
            record.keep(RECORDED[name], micro.indices, numbers, accumulator.readings)

    return keep


def _check_gradient(finite: float) -> Failure | None:
    return None if finite else Failure("the gradient is not finite")


def _named(failure: Failure, ids: Sequence[str]) -> str:
    """A failure and its samples: those whose own losses are not finite, else all of the micro-batch."""
    if failure.rows:
        noun = "sample" if len(failure.rows) == 1 else "samples"
        return f"{failure.what}, by the {noun} {listed(ids[row] for row in failure.rows)}"
    return f"{failure.what} in a micro-batch of the samples {listed(ids)}"
