"""A rollout's texts as right-padded batches for forward passes.

Padding stands behind the text, where causal attention never looks, so that no mask is needed and no
amount of padding changes a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppokit.plugin.types import Rollout


@dataclass(frozen=True)
class TokenBatch:
    """Prompts and responses for one forward pass, right-padded, so that no padding is ever attended.

    Attributes:
        input_ids: [b,T].
        rows, positions: [N] where the hidden state that predicts each token of the policy's own stands.
        targets: [N] these tokens.
        mask: [b,R] True on them; `mask.nonzero()` is in the order of the above. Tokens of a response that the
            policy did not write are read, and nothing is computed of them.
    """

    input_ids: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    mask: Tensor

    @staticmethod
    def build(
        prompt_ids: Sequence[Sequence[int]],
        response_ids: Tensor,
        mask: Tensor,
        device: torch.device,
        loss_mask: Tensor | None = None,
    ) -> TokenBatch:
        """From prompts and [b,R] responses whose real tokens are `mask`; R may exceed what is needed.

        Args:
            loss_mask: which of them the policy wrote; None for all.
        """
        loss_mask = mask if loss_mask is None else loss_mask
        lengths = mask.sum(dim=1).tolist()
        width = max(max(len(p) + n for p, n in zip(prompt_ids, lengths, strict=True)), 1)
        input_ids = torch.zeros(len(prompt_ids), width, dtype=torch.long)
        for row, (prompt, n) in enumerate(zip(prompt_ids, lengths, strict=True)):
            input_ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
            input_ids[row, len(prompt) : len(prompt) + n] = response_ids[row, mask[row]]
        rows, _ = loss_mask.nonzero(as_tuple=True)
        order = mask.long().cumsum(dim=1)[loss_mask] - 1
        starts = torch.tensor([len(p) for p in prompt_ids])
        positions = starts[rows] - 1 + order
        move = [input_ids, rows, positions, response_ids[loss_mask], loss_mask]
        return TokenBatch(*(tensor.to(device) for tensor in move))

    def scatter(self, flat: Tensor) -> Tensor:
        """[N] numbers of the tokens back to [b,R], 0 elsewhere, keeping the gradient."""
        out = flat.new_zeros(self.mask.shape)
        return out.masked_scatter(self.mask, flat)


def sequence_lengths(rollout: Rollout) -> list[int]:
    """Tokens of prompt and response together, one number per response."""
    tokens = rollout.response_mask.sum(dim=1).tolist()
    return [len(p) + n for p, n in zip(rollout.prompt_ids, tokens, strict=True)]


def token_batch(rollout: Rollout, indices: Sequence[int], device: torch.device) -> TokenBatch:
    """Some responses of a rollout, ready for a forward pass."""
    chosen = list(indices)
    return TokenBatch.build(
        [rollout.prompt_ids[i] for i in chosen],
        rollout.response_ids[chosen],
        rollout.response_mask[chosen],
        device,
        rollout.loss_mask[chosen],
    )
