"""Numbers about a run with how sure they are.

Responses to one prompt are not independent, so that intervals count prompts and not responses: a group's mean
is one observation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ppokit.report.ragged import Floats

T = TypeVar("T")

Z = 1.959963984540054
"""Of the normal distribution, for intervals of 95 %."""

DRAWS = 1000
ENOUGH = 10


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its 95 % interval; NaN ends where there is too little to know."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Responses:
    """Numbers of responses, [N], with the step and the group of each.

    Attributes:
        groups: equal numbers are responses to one prompt within one step.
    """

    steps: Floats
    groups: Floats
    scores: Floats
    lengths: Floats


def t_quantile(freedom: float) -> float:
    """The .975 quantile of Student's t distribution.

    Its expansion about the normal quantile, Abramowitz and Stegun 1964, 26.7.5: within .2 % from three
    degrees of freedom on, where it is used.
    """
    n = max(freedom, 1.0)
    if n < 2:
        return 12.706
    if n < 3:
        return 4.303
    z = Z
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / n + g2 / n**2 + g3 / n**3 + g4 / n**4


def mean_difference(before: Floats, after: Floats) -> Estimate:
    """Mean of `after` less that of `before`, with Welch's interval (Welch 1947, Biometrika 34).

    Args:
        before, after: independent observations, such as means of groups.
    """
    if not len(before) or not len(after):
        return UNKNOWN
    change = float(after.mean() - before.mean())
    if len(before) < 2 or len(after) < 2:
        return Estimate(change, math.nan, math.nan)
    errors = [float(x.var(ddof=1)) / len(x) for x in (before, after)]
    total = sum(errors)
    if total == 0:  # nothing varies: a few equal numbers do not say how much others would differ
        enough = len(before) + len(after) >= ENOUGH
        return Estimate(change, *(2 * [change if enough else math.nan]))
    freedom = total**2 / sum(e**2 / (len(x) - 1) for e, x in zip(errors, (before, after), strict=True))
    margin = t_quantile(freedom) * math.sqrt(total)
    return Estimate(change, change - margin, change + margin)


def mean_interval(numbers: Floats) -> Estimate:
    """The mean with Student's interval."""
    if not len(numbers):
        return UNKNOWN
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Estimate(mean, math.nan, math.nan)
    margin = t_quantile(len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Estimate(mean, mean - margin, mean + margin)


def share_interval(count: int, of: int) -> Estimate:
    """A share with Wilson's interval (Wilson 1927, JASA 22)."""
    if not of:
        return UNKNOWN
    share, z2 = count / of, Z * Z
    center = (share + z2 / (2 * of)) / (1 + z2 / of)
    margin = Z / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return Estimate(share, max(0.0, center - margin), min(1.0, center + margin))


def window(steps: Sequence[int]) -> int:
    """How many of the first and of the last steps are compared: a fifth, at least one and at most ten."""
    return max(1, min(10, len(steps) // 5))


def step_names(steps: Sequence[int]) -> str:
    """`step 3`, `steps 3 and 4`, `steps 3 to 8`, or, where some between are left out, `5 steps of 3 to 8`."""
    first, last = min(steps), max(steps)
    if len(steps) < 3:
        return f"step {first}" if first == last else f"steps {first} and {last}"
    return f"{'steps' if last - first < len(steps) else f'{len(steps)} steps of'} {first} to {last}"


def evenly(items: Sequence[T], count: int) -> list[T]:
    """So many of the items, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def group_means(keys: Floats, numbers: Floats) -> Floats:
    """Mean of the finite numbers of each group; groups without any are left out."""
    known = np.isfinite(numbers)
    if not known.any():
        return np.empty(0)
    _, index = np.unique(keys[known], return_inverse=True)
    return np.asarray(np.bincount(index, numbers[known]) / np.bincount(index))


def length_share(responses: Responses, first: Sequence[int], last: Sequence[int]) -> Estimate | None:
    """Which share of the change of the mean score the change of length explains.

        share = slope * (mean length last - mean length first) / (mean score last - mean score first)

    The slope is that of score on length within groups, so that neither the prompt nor what else training
    changed is taken for an effect of length (the explained part of Oaxaca 1973 and Blinder 1973, with the
    within-group slope for both times). The interval is the bootstrap's over groups (Efron and Tibshirani
    1993).

    Args:
        first, last: steps that are compared.

    Returns: None where the score did not change surely, lengths within groups are equal, or there are fewer
        than eight groups.
    """
    early, late = np.isin(responses.steps, first), np.isin(responses.steps, last)
    known = np.isfinite(responses.scores) & np.isfinite(responses.lengths) & (early | late)
    scores, lengths = responses.scores[known], responses.lengths[known]
    is_late = late[known]
    if not known.any():
        return None
    _, group = np.unique(responses.groups[known], return_inverse=True)
    count = np.bincount(group).astype(float)
    if len(count) < 8:
        return None
    sum_s, sum_l = (np.bincount(group, numbers).astype(np.float64) for numbers in (scores, lengths))
    # Per group: what the slope and the means need, so that a draw is a weighted sum over groups.
    cross = np.bincount(group, scores * lengths) - sum_s * sum_l / count
    square = np.bincount(group, lengths * lengths) - sum_l * sum_l / count
    of_late = np.bincount(group, is_late.astype(float)) > 0
    gain = mean_difference((sum_s / count)[~of_late], (sum_s / count)[of_late])
    if not (gain.low > 0 or gain.high < 0) or square.sum() <= 1e-9:
        return None

    def share(weights: Floats) -> Floats:
        """Of each row of weights, [draws, groups]."""

        def change(sums: Floats) -> Floats:
            late_w, early_w = weights * of_late, weights * ~of_late
            return np.asarray((late_w @ sums) / (late_w @ count) - (early_w @ sums) / (early_w @ count))

        return np.asarray((weights @ cross) / (weights @ square) * change(sum_l) / change(sum_s))

    generator = np.random.default_rng(0)
    draws = np.zeros((DRAWS, len(count)))
    for side in (of_late, ~of_late):
        own = np.flatnonzero(side)
        draws[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=DRAWS)
    with np.errstate(all="ignore"):
        value = float(share(np.ones((1, len(count))))[0])
        drawn = share(draws)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or not math.isfinite(value):
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def variance_shares(total: Floats, parts: dict[str, Floats], steps: Floats) -> dict[str, float] | None:
    """Which share of the variance of the whole reward within steps each provider decides.

        share_p = Cov(b_p s_p, total) / Var(total)

    with b the coefficients of the regression of the whole reward on the providers' raw scores, both less the
    mean of their step; the shares sum to 1 where the reward is their weighted sum.

    Returns: None for fewer than two providers, where the regression explains less than 98 % (so that the
        reward is no weighted sum, as with gates), or where nothing varies.
    """
    known = np.isfinite(total)
    for scores in parts.values():
        known &= np.isfinite(scores)
    if len(parts) < 2 or known.sum() < 10 * len(parts):
        return None
    matrix = np.stack([_less_step_mean(scores[known], steps[known]) for scores in parts.values()], axis=1)
    target = _less_step_mean(total[known], steps[known])
    variance = float(target @ target)
    if variance <= 1e-12 * len(target):
        return None
    scale = np.sqrt((matrix * matrix).sum(axis=0))
    scale[scale == 0] = 1.0
    coefficients = np.linalg.lstsq(matrix / scale, target, rcond=1e-8)[0] / scale
    rest = target - matrix @ coefficients
    if float(rest @ rest) > 0.02 * variance:
        return None
    shares = (matrix * coefficients).T @ target / variance
    return dict(zip(parts, map(float, shares), strict=True))


def _less_step_mean(numbers: Floats, steps: Floats) -> Floats:
    _, index = np.unique(steps, return_inverse=True)
    return np.asarray(numbers - (np.bincount(index, numbers) / np.bincount(index))[index])


def trend(steps: Sequence[int], values: Sequence[float]) -> Estimate:
    """How far a straight line through the points rises from the first to the last step.

    With Student's interval for the slope of ordinary least squares; no interval for fewer than three points.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(x) < 2 or x[-1] == x[0]:
        return UNKNOWN
    squares = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / squares
    range_ = float(x[-1] - x[0])
    if len(x) < 3:
        return Estimate(slope * range_, math.nan, math.nan)
    rest = y - y.mean() - slope * (x - x.mean())
    margin = t_quantile(len(x) - 2) * math.sqrt(float((rest**2).sum()) / (len(x) - 2) / squares)
    return Estimate(slope * range_, (slope - margin) * range_, (slope + margin) * range_)
