"""Activation checkpointing: what a layer computes inside is forgotten, and computed again for its gradient.

    kept per layer and token:   its input, H numbers, in the place of some twenty times as many

Chen et al. 2016, arXiv:1604.06174. Differs from transformers' own, which is bound to a model's training mode
and so to its dropout: here a model stays in evaluation mode. It also knows of adapters: one backward pass may
go through several roles of a base, and each layer is computed again in the role that it was computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ppokit.kernels.frozen_trunk import layers_of

InItsRole = Callable[[], Callable[[], AbstractContextManager[None]]]
"""Asked in a forward pass, gives what brings its role back for a while."""


def checkpoint_layers(model: Any, role: InItsRole) -> None:
    """Let the layers of a causal LM forget their inside in passes with gradient, in place.

    To be called once the fast paths are installed, which stay within the layers.
    """
    for layer in layers_of(model):
        layer.forward = partial(_forward, layer.forward, role)


@contextmanager
def all_kept(model: Any) -> Iterator[int]:
    """Let no layer forget within; gives the number of those that otherwise do."""
    wrapped = {layer: layer.forward for layer in layers_of(model) if isinstance(layer.forward, partial)}
    for layer, forward in wrapped.items():
        layer.forward = forward.args[0]
    try:
        yield len(wrapped)
    finally:
        for layer, forward in wrapped.items():
            layer.forward = forward


def _forward(forward: Callable[..., Any], role: InItsRole, *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    back = role()

    def compute(*inputs: Any, **options: Any) -> Any:
        with back():
            return forward(*inputs, **options)

    # Nothing is drawn in a pass, so that no state of a random generator need be kept.
    return checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
