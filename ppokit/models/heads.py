"""Linear heads on the last hidden states: the value function's, and a fitted reward model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ppokit.plugin.output_head import output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ppokit.data.batches import TokenBatch


@dataclass(frozen=True)
class FittedHead:
    """A linear head on hidden states: weight [1,H] and bias [1], float32."""

    weight: Tensor
    bias: Tensor


class ValueHead(nn.Linear):
    """The value function's head, float32. Zero at first: values start at 0, and it moves before the trunk.

    Args:
        model: on whose last hidden states it stands.
        detached: whether it sends no gradient into them.
    """

    def __init__(self, model: PreTrainedModel, *, detached: bool) -> None:
        # Not the configuration's width: some models project their states to the embeddings'.
        hidden = output_head(model).weight.shape[1]
        super().__init__(hidden, 1, device=model.device, dtype=torch.float32)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.detached = detached

    @torch.no_grad()
    def start_as(self, head: FittedHead) -> None:
        """Take over a fitted reward model's head, whose score it then predicts."""
        self.weight.copy_(head.weight)
        self.bias.copy_(head.bias)

    def values(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        """Value of the state in which each response token was chosen.

        Args:
            hidden: [b,T,H] of the batch, [1,N,H] of a packed one.

        Returns: [b,R] float32, 0 on padding.
        """
        selected = hidden[batch.rows, batch.positions]
        if self.detached:
            selected = selected.detach()
        return batch.scatter(self(selected.float()).squeeze(-1))
