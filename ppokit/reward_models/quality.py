"""How well scores agree with ratings they were not fitted to.

Intervals are 95 % percentile bootstrap (Efron 1979), prompts drawn with replacement: responses to one prompt
are not independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppokit.ratings.agreement import LEAST_ITEMS, Estimate, rank_correlation
from ppokit.ratings.records import RatingTable
from ppokit.ratings.splitting import same_prompt
from ppokit.ratings.table import pairs_of

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats, Ints

REPLICATES = 1000
BINS = 5
MOST_SLOPE = 10.0
_MOST_PAIRS = 2000  # responses whose every pair is counted at once; 4 million comparisons


@dataclass(frozen=True)
class Share(Estimate):
    """A share of pairs, and how many could be decided."""

    pairs: int


@dataclass(frozen=True)
class Bin:
    """Responses of about the same score.

    Attributes:
        score, rating: their means; for choices, the chance that the model gives the chosen response, and how
            often it was right.
        count: how many.
    """

    score: float
    rating: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """Whether a score of 1 means a rating of 1.

    Attributes:
        slope, intercept: of the line from scores to ratings; 1 and 0 are right. A model of slope under 1
            exaggerates. For choices: the factor on the difference of scores that makes the choices likeliest,
            and 0.
        bins: from the lowest scores to the highest.
    """

    slope: float
    intercept: float
    bins: list[Bin]


def spearman(scores: Floats, ratings: Floats, groups: Sequence[str], *, seed: int) -> Estimate:
    """Rank correlation of scores and ratings; NaN where one does not vary.

    Args:
        scores, ratings: [N]
        groups: the prompt of each. [N]
    """
    return _bootstrap(lambda p: rank_correlation(scores[p], ratings[p]), groups, seed)


def spearman_gain(
    more: Floats, fewer: Floats, ratings: Floats, groups: Sequence[str], *, seed: int
) -> Estimate:
    """How much better the first scores correlate than the second, on the same draws of prompts. All [N]"""
    return _bootstrap(
        lambda p: rank_correlation(more[p], ratings[p]) - rank_correlation(fewer[p], ratings[p]), groups, seed
    )


def choice_gain(more: Floats, fewer: Floats, groups: Sequence[str], *, seed: int) -> Estimate:
    """How much oftener the first margins are right than the second, on the same draws of prompts. All [N]"""
    return mean(_right(more) - _right(fewer), groups, seed=seed)


def pair_accuracy(scores: Floats, ratings: Floats) -> float:
    """Share of pairs with different ratings whose better one has the higher score; equal scores count half.

    Args:
        scores, ratings: [N]
    """
    right = total = 0.0
    for i in range(len(scores)):
        differ = np.sign(ratings[i + 1 :] - ratings[i])
        agree = np.sign(scores[i + 1 :] - scores[i]) * differ
        total += float(np.abs(differ).sum())
        right += float((agree > 0).sum() + 0.5 * ((agree == 0) & (differ != 0)).sum())
    return right / total if total else float("nan")


def pair_accuracies(
    scores: Floats, ratings: Floats, groups: Sequence[str], *, seed: int
) -> tuple[Share | None, Share | None]:
    """Pair accuracy over pairs of any responses, and over pairs that answer the same prompt.

    None where there are no such pairs. Of more than 2,000 responses, 2,000 are drawn for the first.
    """
    keys = np.array([same_prompt(group) for group in groups])
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.choice(len(scores), min(len(scores), _MOST_PAIRS), replace=False))
    a, b = scores[drawn], ratings[drawn]
    different = int((b[:, None] != b[None, :]).sum() // 2)
    overall = None
    if different:
        # 100 replicates: each compares every pair again.
        estimate = _bootstrap(lambda p: pair_accuracy(a[p], b[p]), keys[drawn].tolist(), seed, replicates=100)
        overall = Share(**vars(estimate), pairs=different)
    right, count = [], []
    for key in np.unique(keys):
        indices = np.flatnonzero(keys == key)
        pairs = int((ratings[indices][:, None] != ratings[indices][None, :]).sum() // 2)
        if pairs:
            right.append(pair_accuracy(scores[indices], ratings[indices]) * pairs)
            count.append(pairs)
    if not count:
        return overall, None
    r, n = np.array(right), np.array(count)
    estimate = _bootstrap(lambda p: float(r[p].sum() / n[p].sum()), [str(i) for i in range(len(n))], seed)
    return overall, Share(**vars(estimate), pairs=int(n.sum()))


def choice_accuracy(margins: Floats, groups: Sequence[str], *, seed: int) -> Share:
    """Share of choices in which the chosen response scores higher; equal scores count half.

    Args:
        margins: score of the chosen response minus that of the other. [N]
        groups: the prompt of each. [N]
    """
    return Share(**vars(mean(_right(margins), groups, seed=seed)), pairs=len(margins))


def calibration(scores: Floats, ratings: Floats) -> Calibration:
    """The line from scores to ratings by least squares, and bins of equal size. [N], [N]"""
    centred = scores - scores.mean()
    squares = float(centred @ centred)
    slope = float(centred @ ratings) / squares if squares > 0 else float("nan")
    return Calibration(slope, float(ratings.mean() - slope * scores.mean()), _bins(scores, ratings))


def choice_calibration(margins: Floats) -> Calibration:
    """The factor on margins that makes the choices likeliest, and how often which confidence is right. [N]

    NaN where there is none, since every choice is right (or wrong).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import expit

    estimate = minimize_scalar(
        lambda factor: float(np.logaddexp(0, -factor * margins).mean()),
        bounds=(-MOST_SLOPE, MOST_SLOPE),
        method="bounded",
    )
    # Choices that are all predicted, or hardly any of them at all, have no best factor.
    slope = float(estimate.x) if abs(estimate.x) < 0.99 * MOST_SLOPE else float("nan")
    chance = expit(np.abs(margins))
    return Calibration(slope, 0.0, _bins(chance, _right(margins)))


def choice_agreement(table: RatingTable, *, seed: int) -> Estimate | None:
    """How often two raters of one pair prefer the same response; None with under three such pairs.

    Args:
        table: pairs, or ratings of several responses per item, of which those of named raters count.
    """
    votes: dict[tuple[str, frozenset[str]], dict[str | int, str]] = {}
    # Of ratings that name no rater one cannot tell which two are one person's.
    pairs = table.pairs or [pair for pair in pairs_of(table) if pair.rater]
    for number, pair in enumerate(pairs):
        choices = votes.setdefault((pair.prompt, frozenset((pair.chosen, pair.rejected))), {})
        choices.setdefault(pair.rater or number, pair.chosen)  # a rater once; each row that names none
    prompts, same = [], []
    for (prompt, _), choices in votes.items():
        m, most = len(choices), max(Counter(choices.values()).values())
        if m > 1:
            prompts.append(prompt)
            same.append((most * (most - 1) + (m - most) * (m - most - 1)) / (m * (m - 1)))
    return mean(np.array(same), prompts, seed=seed) if len(same) >= LEAST_ITEMS else None


def mean(numbers: Floats, groups: Sequence[str], *, seed: int) -> Estimate:
    """The mean. [N], the prompt of each [N]"""
    return _bootstrap(lambda indices: float(numbers[indices].mean()), groups, seed)


def ratio(above: Floats, below: Floats, groups: Sequence[str], *, seed: int) -> Estimate:
    """The mean of the first over the mean of the second, on the same draws of prompts. All [N]"""
    return _bootstrap(lambda indices: float(above[indices].mean() / below[indices].mean()), groups, seed)


def _right(margins: Floats) -> Floats:
    return np.asarray((np.sign(margins) + 1) / 2)


def _bins(scores: Floats, ratings: Floats) -> list[Bin]:
    parts = np.array_split(np.argsort(scores, kind="stable"), min(BINS, len(scores)))
    return [Bin(float(scores[p].mean()), float(ratings[p].mean()), len(p)) for p in parts]


def _bootstrap(
    statistic: Callable[[Ints], float],
    groups: Sequence[str],
    seed: int,
    replicates: int = REPLICATES,
) -> Estimate:
    keys = np.unique([same_prompt(group) for group in groups], return_inverse=True)[1]
    order = np.argsort(keys, kind="stable")
    members = np.split(order, np.searchsorted(keys[order], np.arange(1, keys.max() + 1)))
    value = statistic(np.arange(len(keys)))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(replicates):
        chosen = generator.integers(0, len(members), len(members))
        estimate = statistic(np.concatenate([members[i] for i in chosen]))
        if np.isfinite(estimate):
            drawn.append(estimate)
    if len(drawn) < replicates / 2 or len(members) < 3:
        return Estimate(value, None, None)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
