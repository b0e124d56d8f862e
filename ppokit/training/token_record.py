"""What the last pass of an update over each response computed of its tokens, for the samples that a run
keeps.

Nothing is computed for it: the passes have these numbers anyway, and they are on their way to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppokit.distributed import Processes
from ppokit.training.readings import Readings

RECORDED = {"policy/entropy": "entropy", "policy/clip_fraction": "clipped"}
"""Numbers of tokens that are reported as metrics, and their columns."""

COLUMNS = ("log_ratio", "new_values", *RECORDED.values(), "kl/k1")


class TokenRecord:
    """Numbers of tokens by column, of the responses that an update trained on.

    Args:
        ids: of the responses, in the order of the update's rollout.
        length: R.

    Attributes:
        columns: [B,R] float32 by name, after `gather`; NaN for a response over which no pass went.
            `log_ratio` is the log-probability in that pass less that before the update; `new_values` and
            `entropy` are that pass's; `clipped` is 1 where the loss gave no gradient. `kl/k1` is the KL
            before the update, which it alone knows where nothing else needs the old log-probabilities.
    """

    def __init__(self, ids: Sequence[str], length: int) -> None:
        self.ids = list(ids)
        self.columns: dict[str, Tensor] = {}
        self._shape = (len(self.ids), length)
        self._seen = torch.zeros(len(self.ids))

    def keep(self, name: str, indices: Sequence[int], numbers: Tensor, readings: Readings) -> None:
        """Numbers [b,R] of a pass over the responses at `indices`, in place of an earlier pass's."""

        def arrived(tensor: Tensor) -> None:
            self.put(name, indices, tensor)
            self._seen[list(indices)] = 1.0

        readings.fetch(numbers, arrived)

    def put(self, name: str, indices: Sequence[int], numbers: Tensor) -> None:
        """Numbers [b,R] on the host that are of no pass."""
        column = self.columns.setdefault(name, torch.zeros(self._shape))
        column[list(indices)] = numbers.float()

    def gather(self, processes: Processes) -> None:
        """Fill in what the other processes recorded; every process calls this."""
        names = set(processes.gather(list(self.columns)))
        for name in COLUMNS:
            if name in names:
                self.columns.setdefault(name, torch.zeros(self._shape))
        processes.sum([*(self.columns[name] for name in COLUMNS if name in names), self._seen])
        for column in self.columns.values():
            column[self._seen == 0] = math.nan
