"""Krippendorff's alpha kept up to date while ratings come in, at the same cost however many there are.

    alpha = 1 - (n - 1) sum_u (m_u s2_u - s1_u^2) / (m_u - 1) / (n S2 - S1^2)

at the level `interval`: over items u with m_u >= 2 ratings, whose sum is s1_u and whose sum of squares is
s2_u; n, S1 and S2 are their totals. `alpha_weighted` in `ppokit.ratings.agreement` gives the same.
Ratings are taken as fractions, so that nothing adds up over thousands of changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

_Sums = tuple[int, Fraction, Fraction, Fraction]  # m, s1, s2, disagreement within


class RunningAlpha:
    """Agreement so far.

    Attributes:
        items: how many items have two ratings or more.
    """

    def __init__(self) -> None:
        self._by_item: dict[str, _Sums] = {}
        self._n, self._s1, self._s2, self._within = 0, Fraction(), Fraction(), Fraction()

    @property
    def items(self) -> int:
        return len(self._by_item)

    def replace(self, item: str, values: Iterable[float]) -> None:
        """These are the item's ratings now."""
        old = self._by_item.pop(item, None)
        if old is not None:
            self._add(old, -1)
        new = [Fraction(value) for value in values]
        if len(new) >= 2:
            m, s1, s2 = len(new), sum(new, Fraction()), sum((v * v for v in new), Fraction())
            self._by_item[item] = (m, s1, s2, (m * s2 - s1 * s1) / (m - 1))
            self._add(self._by_item[item], 1)

    def _add(self, sums: _Sums, sign: int) -> None:
        m, s1, s2, within = sums
        self._n += sign * m
        self._s1 += sign * s1
        self._s2 += sign * s2
        self._within += sign * within

    def value(self) -> float | None:
        """Alpha; None where no item has two ratings, or all ratings are equal."""
        between = self._n * self._s2 - self._s1 * self._s1
        return float(1 - (self._n - 1) * self._within / between) if between else None
