"""Which responses a page shows: a page that opens at once cannot hold them all.

First the ones that a person looks for: the extremes of every list, and what failed. Then whole groups: those
of a few prompts at every step, and all of the first, the last and the steps between them. What room is left
shows other responses without their tokens, evenly over the steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from typing import TypeVar

import numpy as np

from ppokit.report.ragged import Floats
from ppokit.report.step_file import Samples

T = TypeVar("T")

EXTREMES = 12
FOLLOWED = 3  # prompts whose groups are shown at every step
FAILED = 100
MOVED = 0.05  # nats of a whole response; below is rounding

LONGEST_TEXT = 6000  # characters of a response with its tokens
LONGEST_OTHER = 700  # of one without
MOST_TOKENS = 2000

RESPONSE_BYTES, TOKEN_BYTES, TEXT_BYTES = 260, 46, 5
"""About what a response, a token's numbers, and a token's text take on the page."""


@dataclass
class Chosen:
    """Rows of steps that a page shows.

    Attributes:
        rows: of each step, its rows, and whether their tokens are shown.
        up, down: rows as (step, row) that became likelier and less likely, those that moved most first.
        best, worst: likewise by score.
        by_reference: whether what moved is told by the reference, or within a step, for want of a reference.
    """

    rows: dict[int, dict[int, bool]] = field(default_factory=dict)
    up: list[tuple[int, int]] = field(default_factory=list)
    down: list[tuple[int, int]] = field(default_factory=list)
    best: list[tuple[int, int]] = field(default_factory=list)
    worst: list[tuple[int, int]] = field(default_factory=list)
    by_reference: bool = False


def choose(steps: Sequence[Samples], token_budget: float, text_budget: float) -> Chosen:
    """Choose responses of the steps.

    Args:
        token_budget, text_budget: bytes that responses with and without their tokens may take, about.
    """
    chosen, by_step = Chosen(), {samples.step: samples for samples in steps}
    if not steps:
        return chosen
    chosen.by_reference = any(np.nanmax(np.abs(s.kl), initial=0.0) > MOVED for s in steps)
    moved = {s.step: s.kl if chosen.by_reference else s.change for s in steps}
    chosen.up = _extremes(steps, {step: _beyond(own, MOVED) for step, own in moved.items()}, highest=True)
    chosen.down = _extremes(
        steps, {step: -_beyond(-own, MOVED) for step, own in moved.items()}, highest=False
    )
    chosen.best = _extremes(steps, {s.step: s.score for s in steps}, highest=True)
    chosen.worst = _extremes(steps, {s.step: s.score for s in steps}, highest=False)
    spent = 0.0

    def add(wanted: Iterator[tuple[int, int]], budget: float, *, tokens: bool) -> None:
        nonlocal spent
        for step, row in wanted:
            rows = chosen.rows.setdefault(step, {})
            if row in rows:
                continue
            size = _bytes(float(np.nan_to_num(by_step[step].length[row])), tokens=tokens)
            if spent + size > budget:
                return
            rows[row] = tokens
            spent += size

    lists = (chosen.best, chosen.worst, chosen.up, chosen.down)
    add((rows[i] for i in range(EXTREMES) for rows in lists if i < len(rows)), token_budget, tokens=True)
    add(_failed(steps), token_budget, tokens=True)
    add(_followed(steps), token_budget * 0.6, tokens=True)
    add(
        ((s, row) for s in bisected([s.step for s in steps]) for row in _by_group(by_step[s])),
        token_budget,
        tokens=True,
    )
    spent = 0.0
    add(_in_turns(steps), text_budget, tokens=False)
    return chosen


def _bytes(length: float, *, tokens: bool) -> float:
    """About what a response of so many tokens takes, of which a page shows no more than so much."""
    text = min(TEXT_BYTES * length, LONGEST_TEXT if tokens else LONGEST_OTHER)
    return RESPONSE_BYTES + text + TOKEN_BYTES * min(length, MOST_TOKENS) * tokens


def bisected(items: Sequence[int]) -> list[int]:
    """The first, the last, then the middle, the quarters and so on."""
    order: list[int] = []
    known: set[int] = set()
    parts = 1
    while len(order) < len(items):
        for i in range(parts + 1):
            index = round(i * (len(items) - 1) / parts)
            if index not in known:
                known.add(index)
                order.append(items[index])
        parts *= 2
    return order


def _beyond(numbers: Floats, least: float) -> Floats:
    """NaN in place of smaller numbers."""
    return np.where(numbers >= least, numbers, np.nan)


def _extremes(
    steps: Sequence[Samples], numbers: dict[int, Floats], *, highest: bool
) -> list[tuple[int, int]]:
    """The responses with the highest or the lowest of these numbers; of equal texts one."""
    order = [
        (-value if highest else value, samples.step, row, samples.keys[row])
        for samples in steps
        for row, value in enumerate(numbers[samples.step].tolist())
        if np.isfinite(value)
    ]
    different: dict[int, tuple[int, int]] = {}
    for _, step, row, key in sorted(order):
        different.setdefault(key, (step, row))
    return list(different.values())[:EXTREMES]


def in_turn(lists: Iterable[Sequence[T]], most: int) -> Iterator[T]:
    """The first of each list, then the second of each, and so on, up to a number."""
    every = chain.from_iterable(zip_longest(*lists))
    return islice((each for each in every if each is not None), most)


def _failed(steps: Sequence[Samples]) -> Iterator[tuple[int, int]]:
    """Responses for which a reward failed or abstained, each cause in turn, the latest steps first."""
    by_cause: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for samples in reversed(steps):
        for name in samples.reward_outcomes:
            reasons = samples.reasons.get(name, [""] * len(samples))
            for row, outcome in samples.unscored(name):
                by_cause.setdefault((name, outcome, reasons[row]), []).append((samples.step, row))
    return in_turn(by_cause.values(), FAILED)


def _followed(steps: Sequence[Samples]) -> Iterator[tuple[int, int]]:
    """Groups of the prompts that are asked at most steps, if they are asked again at all."""
    counts = Counter(group for samples in steps for group in dict.fromkeys(samples.groups))
    prompts = [group for group, count in counts.most_common(FOLLOWED) if count > 1]
    for prompt in prompts:
        for samples in steps:
            yield from ((samples.step, row) for row, group in enumerate(samples.groups) if group == prompt)


def _by_group(samples: Samples) -> list[int]:
    """Rows in the order of their groups."""
    first: dict[int, int] = {}
    for group in samples.groups:
        first.setdefault(group, len(first))
    return sorted(range(len(samples)), key=lambda row: first[samples.groups[row]])


def _in_turns(steps: Sequence[Samples]) -> Iterator[tuple[int, int]]:
    """Groups of every step in turn, so that all steps have as many."""
    groups = [[list(rows) for rows in _groups(samples).values()] for samples in steps]
    for i in range(max(map(len, groups), default=0)):
        for samples, own in zip(steps, groups, strict=True):
            if i < len(own):
                yield from ((samples.step, row) for row in own[i])


def _groups(samples: Samples) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(samples.groups):
        rows.setdefault(group, []).append(row)
    return rows
