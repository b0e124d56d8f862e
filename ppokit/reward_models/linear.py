"""Linear heads on fixed features, solved: the least of a convex loss, by L-BFGS.

    z = (x - mean) / (sd sqrt(D))
    regression     loss_h = sum_i b_ih w_i (z_i v_h + c_h - y_i)^2 / N + penalty |v_h|^2
    Bradley-Terry  loss_h = sum_i b_ih log(1 + exp(-(z_chosen - z_rejected) v_h)) / N + penalty |v_h|^2

b are the bootstraps of `ppokit.reward_models.training.bootstrap`. Hoerl and Kennard 1970, Technometrics
12:55; Liu and Nocedal 1989, Mathematical Programming 45:503.

The solution lies in the space that the samples span. L-BFGS walks along its principal axes, each scaled by
about the root of its curvature: a dozen steps then do what takes hundreds in v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppokit.ratings.arrays import Floats

STEPS = 1000
_RANK = 1e-12  # of the largest eigenvalue: what is below is rounding
_LEAST_SD = 0.01  # of the median: a feature that hardly varies is not amplified


@dataclass(frozen=True)
class Scale:
    """Mean and scale of features; a text's z has a length of about 1. [D] each"""

    mean: Floats
    scale: Floats

    @staticmethod
    def of(x: NDArray[Any]) -> Scale:
        """That of some texts. x: [N,D]"""
        sd = x.std(axis=0, dtype=np.float64)
        return Scale(
            x.mean(axis=0, dtype=np.float64),
            np.maximum(sd, _LEAST_SD * np.median(sd) or 1.0) * np.sqrt(x.shape[1]),
        )

    def apply(self, x: NDArray[Any]) -> Floats:
        """[N,D]"""
        scaled: Floats = (x - self.mean) / self.scale
        return scaled

    def undone(self, solved: Floats) -> tuple[Floats, Floats]:
        """Weights [heads,D] and biases [heads] for features as they are."""
        weights = (solved[:-1] / self.scale[:, None]).T
        return weights, solved[-1] - weights @ self.mean


class Problem:
    """What to fit.

    Args:
        z: scaled features, or for choices the chosen response's minus the rejected one's. [N,D]
        ratings: of responses [N]; None for choices.
    """

    def __init__(self, z: Floats, ratings: Floats | None) -> None:
        self.z, self.ratings = z, ratings
        self.axes, self.along, self.variances = _principal(z)  # [D,r], [N,r], [r]

    def solve(self, weights: Floats, penalty: float, start: Floats | None = None) -> Floats:
        """The minimum: v, and in the last row c, which is 0 for choices. [D + 1, heads]

        Args:
            weights: how much a sample counts to each head, bootstrap and all. [N, heads]
            start: where to begin, such as the minimum under another penalty.
        """
        from scipy.optimize import minimize

        # The second derivative along an axis: that of a square is 2, that of the logistic loss at most 1/4.
        curvature = 2.0 if self.ratings is not None else 0.25
        step = np.append(1 / np.sqrt(curvature * self.variances + 2 * penalty), 1.0)[:, None]
        shape = (len(step), weights.shape[1])
        begin = np.zeros(shape)
        if start is not None:
            begin = np.vstack([self.axes.T @ start[:-1], start[-1:]]) / step
        result = minimize(
            self._loss, begin.ravel(), (weights, penalty, step), "L-BFGS-B", True,
            options={"maxiter": STEPS, "gtol": 1e-6, "ftol": 1e-12},
        )  # fmt: skip
        inside = result.x.reshape(shape) * step
        return np.vstack([self.axes @ inside[:-1], inside[-1:]])

    def _loss(self, flat: Floats, weights: Floats, penalty: float, step: Floats) -> tuple[float, Floats]:
        inside = flat.reshape(-1, weights.shape[1]) * step
        value, slope = losses(self.along @ inside[:-1] + inside[-1], self.ratings)
        slope = slope * weights / len(weights)
        into = np.empty_like(inside)
        into[:-1] = self.along.T @ slope + 2 * penalty * inside[:-1]
        into[-1] = 0 if self.ratings is None else slope.sum(axis=0)
        total = (value * weights).sum() / len(weights) + penalty * (inside[:-1] ** 2).sum()
        return float(total), (into * step).ravel()


def mean_loss(z: Floats, ratings: Floats | None, weights: Floats, solved: Floats) -> float:
    """Mean loss of samples without the penalty. weights: [N]; solved: [D + 1, 1]"""
    value, _ = losses(z @ solved[:-1] + solved[-1], ratings)
    return float((weights * value[:, 0]).mean())


def losses(scores: Floats, ratings: Floats | None) -> tuple[Floats, Floats]:
    """Loss of each sample and its slope in the score, or in the margin of a choice. [N, heads] each"""
    from scipy.special import expit

    if ratings is None:
        return np.logaddexp(0, -scores), -expit(-scores)
    error = scores - ratings[:, None]
    return error**2, 2 * error


def _principal(z: Floats) -> tuple[Floats, Floats, Floats]:
    """Principal axes [D,r], the samples along them [N,r], and the mean square along each [r]."""
    if len(z) < z.shape[1]:
        values, left = np.linalg.eigh(z @ z.T)
        kept = values > _RANK * values[-1]
        root = np.sqrt(values[kept])
        along = left[:, kept] * root
        axes = z.T @ (left[:, kept] / root)
    else:
        values, axes = np.linalg.eigh(z.T @ z)
        kept = values > _RANK * values[-1]
        axes = axes[:, kept]
        along = z @ axes
    return axes, along, values[kept] / len(z)
