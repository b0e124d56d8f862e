"""The fast paths, and the one contract that each of them keeps.

A kernel is a module with a name, `install` and `remove`. It changes how a model computes and not what: where
a probe gives other numbers than the plain model, `install` leaves the model untouched. `tests/kernels`
compares each with its plain oracle, and `benchmarks/fast_paths.py` (`make bench-kernels`) says what each is
worth. `model.fast_paths: off` in a recipe installs none. `varlen` is for rows of texts, and
`ppokit.models.packing` installs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ppokit.kernels import attention, frozen_trunk, linear, lora_linear


class Kernel(Protocol):
    """A fast path."""

    @property
    def name(self) -> str: ...

    def install(self, model: Any) -> bool:
        """Install on a causal LM in evaluation mode, in place; on one that already has it, on what is new.

        Returns: whether it is installed anywhere; if not, the model is untouched.
        """
        ...

    def remove(self, model: Any) -> None:
        """Undo `install`; without it, nothing."""
        ...


TRAINING: tuple[Kernel, ...] = (attention, lora_linear, frozen_trunk)
"""For models whose hidden states and gradients training needs, adapters attached."""

SAMPLING: tuple[Kernel, ...] = (linear,)
"""For the sampler's copy of a model, which computes no gradients."""


def install(model: Any, kernels: Sequence[Kernel]) -> list[str]:
    """Install those that apply.

    Returns: their names.
    """
    return [kernel.name for kernel in kernels if kernel.install(model)]
