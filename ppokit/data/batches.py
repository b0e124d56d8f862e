"""A rollout's texts as batches for forward passes.

padded   a row per text. Padding stands behind the text, where causal attention never looks, so that no mask
         is needed and no amount of padding changes a number.
packed   one row of all texts, one behind the other, for models that read each by its own positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppokit.data.transfer import to_device
from ppokit.plugin.types import Rollout


@dataclass(frozen=True)
class PackedRow:
    """Where texts stand in one row.

    Attributes:
        position_ids: [1,N], from 0 in each text.
        ends: [b+1] int32: 0, and where each text ends.
        longest: tokens of the longest text.
    """

    position_ids: Tensor
    ends: Tensor
    longest: int


@dataclass(frozen=True)
class TokenBatch:
    """Prompts and responses for one forward pass, right-padded or packed, so that no padding is attended.

    Attributes:
        input_ids: [b,T]; packed, [1,N] tokens of all texts.
        rows, positions: [N] where the hidden state that predicts each token of the policy's own stands.
        targets: [N] these tokens.
        mask: [b,R] True on them. Tokens of a response that the policy did not write are read, and nothing is
            computed of them.
        slots: [N] where each of them stands in `mask`, row after row.
        row: where the texts stand, packed; None padded.
        texts: of each text where it begins (row, column), and what is read of it until the last state that is
            needed; () where none is.
    """

    input_ids: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    mask: Tensor
    slots: Tensor
    row: PackedRow | None = None
    texts: Sequence[tuple[tuple[int, int], tuple[int, ...]]] = ()

    @staticmethod
    def build(
        prompt_ids: Sequence[Sequence[int]],
        response_ids: Tensor,
        mask: Tensor,
        device: torch.device,
        loss_mask: Tensor | None = None,
        *,
        packed: bool = False,
    ) -> TokenBatch:
        """From prompts and [b,R] responses whose real tokens are `mask`; R may exceed what is needed.

        Args:
            loss_mask: which of them the policy wrote; None for all.
            packed: whether the texts share a row.
        """
        loss_mask = mask if loss_mask is None else loss_mask
        texts = [
            [*prompt, *response[own].tolist()]
            for prompt, response, own in zip(prompt_ids, response_ids, mask, strict=True)
        ]
        lengths = [len(text) for text in texts]
        rows, columns = loss_mask.nonzero(as_tuple=True)
        slots = rows * loss_mask.shape[1] + columns
        order = mask.long().cumsum(dim=1)[loss_mask] - 1
        positions = torch.tensor([len(p) for p in prompt_ids])[rows] - 1 + order
        needed = torch.zeros(len(texts), dtype=torch.long).scatter_reduce(0, rows, positions + 1, "amax")
        row: PackedRow | None = None
        if packed:
            ends = torch.tensor([0, *lengths]).cumsum(0)
            input_ids = torch.tensor([[token for text in texts for token in text]], dtype=torch.long)
            position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
            row = PackedRow(to_device(position_ids, device), to_device(ends.int(), device), max(lengths))
            begins = [(0, start) for start in ends[:-1].tolist()]
            positions, rows = positions + ends[rows], torch.zeros_like(rows)
        else:
            width = max([*lengths, 1])
            input_ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
            begins = [(index, 0) for index in range(len(texts))]
        read = [
            (begin, tuple(text[:end]))
            for begin, text, end in zip(begins, texts, needed.tolist(), strict=True)
        ]
        return TokenBatch(
            to_device(input_ids, device),
            to_device(rows, device),
            to_device(positions, device),
            to_device(response_ids[loss_mask], device),
            to_device(loss_mask, device),
            to_device(slots, device),
            row,
            read,
        )

    def scatter(self, flat: Tensor) -> Tensor:
        """[N] numbers of the tokens back to [b,R], 0 elsewhere, keeping the gradient."""
        # Not by the mask, whose tokens a GPU would have to count, forward and backward.
        out = flat.new_zeros(self.mask.numel()).index_put((self.slots,), flat)
        return out.view(self.mask.shape)


def sequence_lengths(rollout: Rollout) -> list[int]:
    """Tokens of prompt and response together, one number per response."""
    tokens = rollout.response_mask.sum(dim=1).tolist()
    return [len(p) + n for p, n in zip(rollout.prompt_ids, tokens, strict=True)]


def token_batch(
    rollout: Rollout, indices: Sequence[int], device: torch.device, *, packed: bool = False
) -> TokenBatch:
    """Some responses of a rollout, ready for a forward pass."""
    chosen = list(indices)
    return TokenBatch.build(
        [rollout.prompt_ids[i] for i in chosen],
        rollout.response_ids[chosen],
        rollout.response_mask[chosen],
        device,
        rollout.loss_mask[chosen],
        packed=packed,
    )
