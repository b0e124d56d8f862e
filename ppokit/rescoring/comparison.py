"""What other rewards would change: ranks, the winners of groups, the samples that move most.

rho = correlation of ranks, ties at their mean rank (Spearman 1904)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Moved:
    """A sample with its scores and ranks before and after; rank 1 is the best."""

    id: str
    response: str
    before: float
    after: float
    rank_before: float
    rank_after: float


@dataclass(frozen=True)
class Comparison:
    """Scores before and after.

    Attributes:
        samples: responses that have both.
        lost, gained: responses that had a score and have none, and the reverse.
        correlation: of the ranks of all of them; NaN where one side does not differ.
        groups: with two responses or more that have both, of which the winners can be compared.
        changed: groups in which no response that won before wins after.
        moved: the samples whose rank changes most, the most first.
    """

    samples: int
    lost: int
    gained: int
    mean_before: float
    mean_after: float
    correlation: float
    groups: int
    changed: int
    moved: tuple[Moved, ...]


def ranks(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for the smallest; equal numbers share the mean of their ranks."""
    _, index, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: NDArray[np.float64] = ends - (counts - 1) / 2
    return means[index]


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's rho; NaN for fewer than two, or where one side is the same everywhere."""
    if len(first) < 2:
        return float("nan")
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length else float("nan")


def compare(
    ids: Sequence[str],
    responses: Sequence[str],
    groups: Sequence[object],
    before: Sequence[float],
    after: Sequence[float],
    *,
    most: int = 5,
) -> Comparison:
    """Compare the scores of the same samples; NaN for a sample without one.

    Args:
        groups: which samples are responses to the same prompt.
        most: of the samples that moved.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    both = np.isfinite(old) & np.isfinite(new)
    rows = np.flatnonzero(both)
    old_ranks, new_ranks = len(rows) + 1 - ranks(old[rows]), len(rows) + 1 - ranks(new[rows])
    by_group: dict[object, list[int]] = {}
    for row in rows.tolist():
        by_group.setdefault(groups[row], []).append(row)
    compared = [members for members in by_group.values() if len(members) > 1]
    order = np.argsort(-np.abs(old_ranks - new_ranks), kind="stable")[:most]
    moved = [
        Moved(
            ids[rows[k]],
            responses[rows[k]],
            float(old[rows[k]]),
            float(new[rows[k]]),
            float(old_ranks[k]),
            float(new_ranks[k]),
        )
        for k in order
        if old_ranks[k] != new_ranks[k]
    ]
    return Comparison(
        samples=len(rows),
        lost=int((np.isfinite(old) & ~np.isfinite(new)).sum()),
        gained=int((~np.isfinite(old) & np.isfinite(new)).sum()),
        mean_before=float(old[rows].mean()) if len(rows) else float("nan"),
        mean_after=float(new[rows].mean()) if len(rows) else float("nan"),
        correlation=correlation(old[rows], new[rows]),
        groups=len(compared),
        changed=sum(not _winners(members, old) & _winners(members, new) for members in compared),
        moved=tuple(moved),
    )


def _winners(members: Sequence[int], scores: NDArray[np.float64]) -> set[int]:
    best = max(scores[row] for row in members)
    return {row for row in members if scores[row] == best}
