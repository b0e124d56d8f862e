"""Scorers of rewards of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ppokit.rewards.scorer import Scorer
from rollouts import single_process


@pytest.fixture
def budget() -> float:
    """Largest share of failed outcomes; a file of tests may have its own."""
    return 0.5


@pytest.fixture
def scorer(budget: float) -> Iterator[Callable[..., Scorer]]:
    """Scorers of these rewards, closed after the test."""
    made: list[Scorer] = []

    def make(*rewards: Any, max_failed: float = budget, **more: Any) -> Scorer:
        made.append(Scorer(rewards, single_process(), max_failed, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()
