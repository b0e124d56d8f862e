"""Texts in one row, one behind the other, in the place of a row each with padding.

transformers reads such rows by their `position_ids`, which begin anew with each text: its masks let no token
see another text. FlashAttention is told where texts end instead. Whether a model reads them so is tried out:
those that keep a state along a row, or count positions by column, do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppokit.data.batches import TokenBatch
from ppokit.errors import PpokitWarning
from ppokit.kernels import varlen
from ppokit.plugin.output_head import final_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ppokit.config.settings import FastPaths, Layout

_EXACT = 1e-5  # of a text's states: float32 on a CPU
_ROUNDED = 0.05  # products of other shapes in 16 bits, or in tf32
_LEAK = 0.01  # the same shapes with another text before it: experts alone are given others


def reads_rows(models: Sequence[PreTrainedModel], layout: Layout, fast_paths: FastPaths) -> bool:
    """Whether micro-batches are rows of texts, by the recipe and by what the models read rightly.

    `auto` makes rows on a GPU, where attention within texts costs no more in one row than in several.
    """
    if layout == "padded" or (layout == "auto" and models[0].device.type != "cuda"):
        return False
    fast = fast_paths == "auto" and all(varlen.install(model) for model in models)
    wrong = [model for model in models if not _agrees(model)] if fast or layout == "packed" else []
    if wrong or not fast:
        for model in models:
            varlen.remove(model)
    if not wrong:
        return fast or layout == "packed"
    warnings.warn(
        f"update.layout: {type(wrong[0]).__name__} reads texts in one row otherwise than alone, so that "
        "micro-batches are padded.",
        PpokitWarning,
        stacklevel=2,
    )
    return False


def final_states_of(model: Any, batch: TokenBatch) -> Tensor:
    """The final states of a batch: [1,N,H] of a row of texts, [b,T,H] of padded ones."""
    row = batch.row
    if row is None:
        with _without_search():
            return final_states(model, input_ids=batch.input_ids, use_cache=False)[0]
    ends = varlen.inputs(model, row.ends, row.longest) if varlen.is_installed(model) else {}
    inputs = {"input_ids": batch.input_ids, "position_ids": row.position_ids, **ends}
    return final_states(model, use_cache=False, **inputs)[0]


@contextmanager
def _without_search() -> Iterator[None]:
    """Let transformers not look for several texts in a row, where each has a row of its own.

    It looks into the positions for each forward pass, and so waits until a GPU has done all before it.
    """
    from transformers import masking_utils

    search = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = search


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether texts have the states in one row that they have alone, whatever text stands before them."""
    size = model.get_input_embeddings().weight.shape[0]
    draw = torch.Generator().manual_seed(0)
    first, other, second = (torch.randint(size, (n,), generator=draw).tolist() for n in (11, 11, 17))
    exact = model.dtype == torch.float32 and model.device.type == "cpu"
    try:
        row, changed = (_states(model, [text, second]) for text in (first, other))
        alone = [_states(model, [text])[0] for text in (first, second)]
        behind = _states(model, [first + second])[0][len(first) :]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model raises what it likes where it is given what it cannot take
        return False
    seen = float((behind - alone[1]).norm())  # what a text before it changes in a text that sees it
    leak = _EXACT if exact else min(_LEAK, 0.1 * seen / float(alone[1].norm()))
    return _near(row[1], changed[1], leak) and all(
        _near(own, expected, _EXACT if exact else _ROUNDED) for own, expected in zip(row, alone, strict=True)
    )


def _states(model: Any, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Those of each text, in one row; of one text alone by the model's plain forward."""
    responses = torch.zeros(len(texts), 1, dtype=torch.long)
    batch = TokenBatch.build(texts, responses, responses > 0, model.device, packed=len(texts) > 1)
    states = final_states_of(model, batch)[0].float()
    return list(torch.split(states, [len(text) for text in texts]))


def _near(own: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((own - expected).norm() <= tolerance * expected.norm())
