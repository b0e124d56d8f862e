"""From numbers of tokens to numbers of a step, over micro-batches and processes.

A loss gives one number per token. Each token's weight comes from counts over the whole mini-batch,

    token_mean                  1 / (real tokens)
    sequence_mean_token_mean    1 / (sequences * tokens of the sequence)
    sequence_mean_token_sum     1 / sequences
    constant                    1 / (sequences * longest possible response)

so that the sum over micro-batches and processes is the loss of the whole, however it is divided. The last
is that of Liu et al. 2025, arXiv:2503.20783.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from ppokit.distributed import Processes
from ppokit.training.readings import Failure, Readings

Aggregation = Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant"]


def token_weights(mask: Tensor, aggregation: Aggregation, max_response: int) -> Tensor:
    """[B,R] weight of each token in the loss of a mini-batch; 0 on padding."""
    real = mask.float()
    lengths = real.sum(dim=1, keepdim=True)
    sequences = (lengths > 0).sum().clamp(min=1)
    if aggregation == "token_mean":
        return real / real.sum().clamp(min=1)
    if aggregation == "sequence_mean_token_mean":
        return real / lengths.clamp(min=1) / sequences
    if aggregation == "sequence_mean_token_sum":
        return real / sequences
    return real / (sequences * max_response)


class MetricAccumulator:
    """Sums of metrics over micro-batches, to become means over real tokens.

    Args:
        taken: names under which other components report.

    Attributes:
        owners: which loss reports under a name; "" for another component.
        readings: what is still on the model's device; sums hold what has been read of them.
        on_tokens: is given the numbers of tokens that are added, by name, [b,R]; None for nobody.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.owners = dict.fromkeys(taken, "")
        self.sums: dict[str, list[float]] = {}
        self.losses: dict[str, float] = {}
        self.norms: list[float] = []
        self.passes = 0
        self.readings = Readings()
        self.on_tokens: Callable[[str, Tensor], None] | None = None

    def start_pass(self) -> None:
        """Losses that follow belong to a new pass, which target_kl may end before its step."""
        self.passes += 1

    def add(
        self,
        name: str,
        numbers: Tensor,
        mask: Tensor,
        check: Callable[[float], Failure | None] = lambda total: None,
    ) -> None:
        """Numbers of tokens, [b,R]; `check` is given the sum of those of real tokens once it is read."""
        entry = self.sums.setdefault(name, [0.0, 0.0])
        if self.on_tokens is not None:
            self.on_tokens(name, numbers)

        def add_total(total: float) -> Failure | None:
            entry[0] += total
            return check(total)

        def add_count(count: float) -> None:
            entry[1] += count

        self.readings.add(
            numbers.float().where(mask, numbers.new_zeros((), dtype=torch.float32)).sum(), add_total
        )
        self.readings.add(mask.sum(), add_count)

    def add_sum(self, name: str, number: float) -> None:
        self.losses[name] = self.losses.get(name, 0.0) + number

    def count_pass(self, norm: float) -> None:
        self.norms.append(norm)

    def means(self, processes: Processes) -> dict[str, float]:
        """Over all processes: token means, losses averaged over passes, the mean gradient norm."""
        self.readings.read()
        sums: dict[str, list[float]] = {}
        losses: dict[str, float] = {}
        for part_sums, part_losses in processes.gather([(self.sums, self.losses)]):
            for name, (total, count) in part_sums.items():
                entry = sums.setdefault(name, [0.0, 0.0])
                entry[0] += total
                entry[1] += count
            for name, number in part_losses.items():
                losses[name] = losses.get(name, 0.0) + number
        passes = max(1, self.passes)
        out = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
        out.update({name: number / passes for name, number in losses.items()})
        if self.norms:
            out["grad_norm"] = sum(self.norms) / len(self.norms)
        return out
