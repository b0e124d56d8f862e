"""Metrics of parts, merged by their reductions: mean with weight, sum, max."""

from __future__ import annotations

import itertools

import pytest
import torch

from ppokit.errors import PluginError
from ppokit.plugin.reductions import Max, Mean, Reduction, Sum, as_numbers, merge


def test_by_hand() -> None:
    parts: list[dict[str, Reduction]] = [
        {"mean": Mean(1.0, 3.0), "count": Sum(8.0), "peak": Max(2.0)},
        {"mean": Mean(5.0, 1.0), "count": Sum(8.0), "peak": Max(-4.0), "late": Sum(1.0)},
    ]
    merged = merge(parts)
    assert merged == {"mean": Mean(2.0, 4.0), "count": Sum(16.0), "peak": Max(2.0), "late": Sum(1.0)}
    assert as_numbers(merged) == {"mean": 2.0, "count": 16.0, "peak": 2.0, "late": 1.0}


def test_any_split_and_order_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(12, generator=generator).tolist()
    whole = {"m": Mean(sum(numbers) / 12, 12.0), "s": Sum(sum(numbers)), "x": Max(max(numbers))}

    def of(part: list[float]) -> dict[str, Reduction]:
        size = len(part)
        return {"m": Mean(sum(part) / size, size), "s": Sum(sum(part)), "x": Max(max(part))}

    for cuts in ((5,), (1, 4, 9), (2, 3)):
        edges = [0, *cuts, 12]
        parts = [of(numbers[a:b]) for a, b in itertools.pairwise(edges)]
        for order in (parts, parts[::-1]):
            nested = merge([merge(order[:1]), merge(order[1:])])
            assert as_numbers(nested) == pytest.approx(as_numbers(whole))


def test_a_mean_of_nothing_is_left_out() -> None:
    parts: list[dict[str, Reduction]] = [
        {"a": Mean(0.0, 0.0), "b": Mean(9.0, 0.0)},
        {"a": Mean(3.0, 2.0)},
    ]
    assert as_numbers(merge(parts)) == {"a": 3.0}


def test_different_reductions_are_refused() -> None:
    with pytest.raises(PluginError, match="'a' is reported as a Mean and a Sum"):
        merge([{"a": Mean(1.0)}, {"a": Sum(1.0)}])
