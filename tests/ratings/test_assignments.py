"""Who gets which item, and agreement so far: against naive oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ppokit.ratings.page.assignments import LEASE, AssignmentQueue
from ppokit.ratings.page.items import Item
from ppokit.ratings.page.running import RunningAlpha

RATERS = ("ana", "ben", "cy")


def board_of(count: int, per_item: int, clock: Any = lambda: 0.0) -> AssignmentQueue:
    return AssignmentQueue([Item(f"i{n}", "p", (f"r{n}",), ("",)) for n in range(count)], per_item, clock)


def record(
    queue: AssignmentQueue, kind: str, rater: str, item: str, number: int, **more: Any
) -> list[dict[str, Any]]:
    it = queue.items[item]
    texts = {
        "kind": "item",
        "item": item,
        "prompt": it.prompt,
        "responses": it.responses,
        "sources": it.sources,
    }
    return [texts, {"kind": kind, "key": f"k{number}", "rater": rater, "item": item, **more}]


class Raters(RuleBasedStateMachine):
    """Raters who take items, answer, skip, take back, come late, and servers that are started again."""

    @initialize(count=st.integers(1, 6), per_item=st.integers(1, 3))
    def begin(self, count: int, per_item: int) -> None:
        self.now = 0.0
        self.count, self.per_item, self.number = count, per_item, 0
        self.queue = board_of(count, per_item, lambda: self.now)
        self.log: list[dict[str, Any]] = []
        self.done: list[tuple[str, str, str, int | None]] = []  # key, rater, item, value: the oracle
        self.holds: dict[str, tuple[str, float]] = {}
        self.late = False

    def write(self, *records: dict[str, Any]) -> None:
        self.log += records
        for entry in records:
            self.queue.apply(entry)

    def counts(self, item: str) -> int:
        return len({rater for _, rater, it, value in self.done if it == item and value is not None})

    def free(self, item: str, rater: str) -> bool:
        if any((r, i) == (rater, item) for _, r, i, _ in self.done):
            return False
        others = sum(i == item and u > self.now for r, (i, u) in self.holds.items() if r != rater)
        return self.counts(item) + others < self.per_item

    @rule(rater=st.sampled_from(RATERS))
    def take(self, rater: str) -> None:
        free = [item for item in self.queue.order if self.free(item, rater)]
        got = self.queue.next_for(rater)
        assigned = self.holds.get(rater, ("", 0))[0]
        assert got == (assigned if assigned in free else free[0] if free else None)
        self.holds.pop(rater, None)
        if got is not None:
            self.holds[rater] = (got, self.now + LEASE)

    @rule(rater=st.sampled_from(RATERS), value=st.none() | st.integers(0, 10))
    def act(self, rater: str, value: int | None) -> None:
        if rater not in self.holds:
            return
        item, until = self.holds.pop(rater)
        self.late |= until <= self.now
        self.number += 1
        kind = "skip" if value is None else "answer"
        self.write(*record(self.queue, kind, rater, item, self.number, value=value))
        self.done.append((f"k{self.number}", rater, item, value))

    @rule(rater=st.sampled_from(RATERS))
    def undo(self, rater: str) -> None:
        mine = [action for action in self.done if action[1] == rater]
        last = self.queue.last(rater)
        assert (last.key if last else None) == (mine[-1][0] if mine else None)
        if not mine:
            return
        self.number += 1
        self.write({"kind": "undo", "key": f"k{self.number}", "rater": rater, "of": mine[-1][0]})
        self.done.remove(mine[-1])

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.log)
    @rule()
    def start_again(self) -> None:
        self.queue = board_of(self.count, self.per_item, lambda: self.now)
        for entry in self.log:
            self.queue.apply(entry)
        self.late |= bool(self.holds)
        self.holds.clear()

    @invariant()
    def as_the_oracle(self) -> None:
        if not hasattr(self, "queue"):
            return
        items = self.queue.order
        assert self.queue.done == sum(min(self.counts(item), self.per_item) for item in items)
        expected = sorted((r, i, v) for _, r, i, v in self.done if v is not None)
        assert sorted((a.rater, a.item, a.value) for a in self.queue.all_answers()) == expected
        given = {rater: sum(r == rater and v is not None for _, r, _, v in self.done) for rater in RATERS}
        assert {rater: self.queue.rated[rater] for rater in RATERS} == given
        if not self.late:
            assert all(self.counts(item) <= self.per_item for item in items)


TestRaters = Raters.TestCase
TestRaters.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_two_raters_do_not_take_one_item() -> None:
    now = [0.0]
    queue = board_of(2, 1, lambda: now[0])
    assert [queue.next_for(rater) for rater in RATERS] == ["i0", "i1", None]
    now[0] = LEASE / 2
    assert queue.next_for("ben") == "i1"  # renews
    now[0] = LEASE
    assert queue.next_for("cy") == "i0"  # ana has gone
    assert queue.next_for("ana") is None


def test_a_page_keeps_its_item_over_a_restart() -> None:
    queue = board_of(3, 1)
    assert queue.next_for("ana", prefer="i2") == "i2"
    assert queue.next_for("ben", prefer="i2") == "i0"
    assert queue.next_for("ben", prefer="nothing") == "i0"


def test_two_answers_of_one_rater_count_as_the_last() -> None:
    """Two tabs under one name; taking the last one back brings the first back."""
    queue = board_of(1, 2)
    for number, value in enumerate((3, 8)):
        for entry in record(queue, "answer", "ana", "i0", number, value=value):
            queue.apply(entry)
    assert ([a.value for a in queue.all_answers()], queue.done) == ([8], 1)
    queue.apply({"kind": "undo", "key": "k9", "rater": "ana", "of": "k1"})
    assert ([a.value for a in queue.all_answers()], queue.done) == ([3], 1)


def test_alpha_by_hand() -> None:
    """Ratings 1, 1 and 1, 3 and 3, 3: within 2 * 4 / 2 = 4 squared differences over n = 6, between 72 / 30.

    D_o = 1/6 * (0 + 2 * 4 / 1 + 0) = 4/3; D_e = 2 * 3 * 3 * 4 / (6 * 5) = 12/5; alpha = 1 - 5/9.
    """
    alpha = RunningAlpha()
    for item, values in (("a", [1, 1]), ("b", [1, 3]), ("c", [3, 3]), ("alone", [7])):
        alpha.replace(item, values)
    assert alpha.value() == pytest.approx(4 / 9)
    assert alpha.items == 3
    alpha.replace("b", [])
    alpha.replace("c", [1, 1])
    assert alpha.value() is None  # all are equal


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.lists(st.integers(0, 10), max_size=4)), max_size=30))
def test_alpha_is_that_of_the_library(changes: list[tuple[str, list[int]]]) -> None:
    krippendorff = pytest.importorskip("krippendorff")
    alpha = RunningAlpha()
    for item, values in changes:
        alpha.replace(item, values)
    units = [values for values in dict(changes).values() if len(values) >= 2]
    different = sorted({value for values in units for value in values})
    if len(different) < 2:
        assert alpha.value() is None
        return
    counts = np.array([[values.count(value) for value in different] for values in units])
    expected = krippendorff.alpha(
        value_counts=counts, value_domain=different, level_of_measurement="interval"
    )
    assert alpha.value() == pytest.approx(expected, abs=1e-12)
