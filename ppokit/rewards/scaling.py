"""Scale and clip what a reward provider gives, before its weight.

    scale    batch, running:  s / std        reference:  (s - mean) / std
    clip     min(max(s, low), high)

`std` and `mean` are those of a response's whole score, its sequence score plus the sum of its token scores,
over the responses that were scored: of this batch, of the run so far (this batch included), or of the first
batch, which the policy sampled before any training, when it is the reference (Ziegler et al. 2019,
arXiv:1909.08593, section 2.2). Token scores are divided by the same number, so that a response's whole score
has deviation 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Scale = Literal["none", "batch", "running", "reference"]


class RunningVariance:
    """Mean and variance, batch by batch.

    Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm", eq. 2.1.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, numbers: Tensor) -> None:
        """Include a batch, [n]."""
        n = numbers.numel()
        if n == 0:
            return
        mean = float(numbers.double().mean())
        gap, total = mean - self.mean, self.count + n
        self.squares += float((numbers.double() - mean).square().sum()) + gap * gap * self.count * n / total
        self.mean += gap * n / total
        self.count = total

    @property
    def std(self) -> float:
        """Sample standard deviation so far; 1 while there is none to speak of."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return std if std > 1e-8 else 1.0


class Scaling:
    """Scale and clip of one provider.

    Args:
        scale: as the module's docstring says.
        clip: bounds of a sequence score and of each token score, after scaling.
    """

    def __init__(self, scale: Scale = "none", clip: tuple[float, float] | None = None) -> None:
        self.scale = scale
        self.clip = clip
        self.variance = RunningVariance()

    @property
    def scales(self) -> bool:
        """Whether scores are divided by what changes in the run, and not clipped alone."""
        return self.scale != "none"

    def apply(
        self, scores: Tensor, token_scores: Tensor | None, scored: Tensor, *, learn: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Sequence and token scores, scaled and clipped; 0 where a response was not scored.

        Args:
            scores: [B] float32; 0 where not scored.
            token_scores: [B,R] float32, 0 on padding and where not scored; or None.
            scored: [B] bool.
            learn: whether mean and deviation take in these scores.

        Raises:
            ValueError: clip does not hold 0, and there are token scores: tokens without one would get one.
        """
        if self.scales:
            if learn and self.scale == "batch":
                self.variance = RunningVariance()
            if learn and (self.scale != "reference" or self.variance.count == 0):
                whole = scores if token_scores is None else scores + token_scores.sum(dim=1)
                self.variance.add(whole[scored])
            if self.scale == "reference":
                scores = scores - self.variance.mean
            scores = scores / self.variance.std
            token_scores = None if token_scores is None else token_scores / self.variance.std
        if self.clip is not None:
            low, high = self.clip
            if token_scores is not None:
                if not low <= 0 <= high:
                    raise ValueError(
                        f"clip is [{low:g}, {high:g}], and it gives token scores, of which most are 0: they "
                        "would become others. Choose bounds with 0 between them."
                    )
                token_scores = token_scores.clamp(low, high)
            scores = scores.clamp(low, high)
        return scores.where(scored, torch.zeros(())), token_scores

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and sum of squared deviations so far."""
        return dict(vars(self.variance))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        vars(self.variance).update(state)
