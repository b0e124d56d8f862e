"""The micro-batches of a step: which responses go through the model together, in every pass of the step.

A response's log-probability in bfloat16 depends on what else is in its batch, since products of other shapes
are rounded differently: by a standard deviation of some .05 nats per token, where GSPO's bounds are 3e-4. So
every response keeps its micro-batch for the whole step. The passes before the update (policy, reference,
values) and those of each epoch see it beside the same responses, with the same padding, and before the first
optimizer step the importance ratio is exactly 1. In float32 another division gives the same results but for
the last digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppokit.data.batches import TokenBatch, sequence_lengths, token_batch
from ppokit.distributed import Processes
from ppokit.plugin.batching import longest_first, token_batches
from ppokit.plugin.types import Rollout
from ppokit.seeds import seed_from

if TYPE_CHECKING:
    from ppokit.config.settings import UpdateSettings


@dataclass(frozen=True)
class MicroBatch:
    """Responses that go through the model together.

    Attributes:
        indices: their positions in the rollout.
        batch: they themselves, on the model's device.
    """

    indices: list[int]
    batch: TokenBatch


class StepBatches:
    """A rollout's division into mini-batches, and of each of them into this process's micro-batches.

    The first epoch's order of the responses, cut into equal parts, makes the mini-batches.

    Args:
        minibatches: how many there are; fewer where there are fewer responses.
        tokens: the most tokens of a micro-batch, padding included.
        packed: whether its texts share a row.
        seed: of the step.
    """

    def __init__(
        self,
        rollout: Rollout,
        *,
        minibatches: int,
        tokens: int,
        seed: Callable[[int], int],
        processes: Processes,
        device: torch.device,
        packed: bool = False,
    ) -> None:
        self.minibatches = minibatches
        self.micros: list[list[MicroBatch]] = []
        self._shape = rollout.response_ids.shape
        self._seed, self._processes = seed, processes
        lengths = sequence_lengths(rollout)
        order = self._order(0)
        self._minibatch_of = [0] * len(order)
        for number in range(minibatches):
            first, last = (len(order) * k // minibatches for k in (number, number + 1))
            for index in order[first:last]:
                self._minibatch_of[index] = number
            mine = longest_first(sorted(order[first:last]), lengths)[processes.rank :: processes.count]
            self.micros.append(
                [
                    MicroBatch(indices, token_batch(rollout, indices, device, packed=packed))
                    for indices in token_batches(mine, lengths, tokens, padded=not packed)
                ]
            )

    def epoch(self, number: int) -> list[tuple[list[int], list[MicroBatch]]]:
        """The mini-batches in an epoch's random order: all responses of each, and this process's part."""
        members: dict[int, list[int]] = {}
        for index in self._order(number):
            members.setdefault(self._minibatch_of[index], []).append(index)
        return [(indices, self.micros[minibatch]) for minibatch, indices in members.items()]

    def forward(self, compute: Callable[[TokenBatch], Tensor]) -> Tensor:
        """Numbers of each response token, computed in shares without gradient; 0 where the policy wrote none.

        Args:
            compute: [b,R], or several numbers per token, [b,R,n], of a batch.

        Returns: [B,R], or [B,R,n].
        """
        return self.forward_indexed(lambda micro: compute(micro.batch))

    @torch.no_grad()
    def forward_indexed(self, compute: Callable[[MicroBatch], Tensor]) -> Tensor:
        """The same for what must know which responses a micro-batch holds."""
        computed: list[tuple[int, Tensor]] = []
        for micro in (micro for micros in self.micros for micro in micros):
            computed.extend(zip(micro.indices, compute(micro).cpu(), strict=True))
        rows = self._processes.gather(computed)
        out = torch.zeros(self._shape[0], *(rows[0][1].shape if rows else self._shape[1:]))
        for index, row in rows:
            out[index] = row
        return out

    def _order(self, epoch: int) -> list[int]:
        """The responses in an epoch's random order."""
        generator = torch.Generator().manual_seed(self._seed(epoch))
        return torch.randperm(self._shape[0], generator=generator).tolist()


class MicroBatcher:
    """Divides a step's rollouts, each once.

    Args:
        settings: the recipe's section `update`.
        seed: of the run.
        device: of the model.
        packed: whether the texts of a micro-batch share a row.
    """

    def __init__(
        self,
        settings: UpdateSettings,
        *,
        seed: int,
        processes: Processes,
        device: torch.device,
        packed: bool = False,
    ) -> None:
        self.settings, self.seed, self.packed = settings, seed, packed
        self.processes, self.device = processes, device
        self._step = 0
        self._divided: list[tuple[Tensor, StepBatches]] = []

    def divide(self, rollout: Rollout, step: int, minibatches: int | None = None) -> StepBatches:
        """The micro-batches of a rollout; those that it already has in this step, whoever asks.

        Args:
            step: that the rollout is trained on in, from 1.
            minibatches: the recipe's, unless given.
        """
        if step != self._step:
            self._step, self._divided = step, []
        count = minibatches or self.settings.minibatches
        for response_ids, batches in self._divided:
            if response_ids is rollout.response_ids and batches.minibatches == count:
                return batches
        batches = self._batches(rollout, count, lambda epoch: seed_from(self.seed, step - 1, epoch))
        self._divided.append((rollout.response_ids, batches))
        return batches

    def whole(self, rollout: Rollout) -> StepBatches:
        """The micro-batches of a rollout that nothing trains on."""
        return self._batches(rollout, 1, lambda epoch: epoch)

    def _batches(self, rollout: Rollout, minibatches: int, seed: Callable[[int], int]) -> StepBatches:
        return StepBatches(
            rollout,
            minibatches=minibatches,
            tokens=self.settings.tokens_per_microbatch,
            seed=seed,
            processes=self.processes,
            device=self.device,
            packed=self.packed,
        )
