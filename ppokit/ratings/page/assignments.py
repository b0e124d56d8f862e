"""Who has rated what, and who gets which item next.

An item is wanted from `per_item` raters. While one of them looks at it, it is leased to them and counts as
taken; a lease that is not renewed in `LEASE` seconds ends. All raters go through the items in the same order,
so that items get their last ratings early and not only at the end. What someone sends after their lease has
ended counts all the same: an item may then get one rating too many, but none is thrown away.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ppokit.ratings.page.items import Item
from ppokit.ratings.page.log import Record

LEASE = 600.0
Value = int | str


@dataclass(frozen=True, slots=True)
class Action:
    """An answer or a skip that counts.

    Attributes:
        number: how many came before it in the log.
        value: None for a skip.
    """

    number: int
    key: str
    rater: str
    item: str
    value: Value | None
    left: int | None


@dataclass(slots=True)
class _Seen:
    """What the log says of one item: what each rater did, and how many of them have answered."""

    actions: dict[str, list[Action]] = field(default_factory=dict)
    answered: int = 0


class AssignmentQueue:
    """What the log's records add up to, and the leases, which no log holds.

    Args:
        items: in the order in which they are to be rated.
        per_item: by how many raters each.
        clock: seconds, never backwards.

    Attributes:
        items: by id, also those that only the log speaks of.
        order: ids of those that are to be rated.
        keys: of all that was ever done.
        raters: what counts of each, oldest first.
        rated: how many of these are answers.
        flagged: who has flagged an item, for those that someone has.
        done: how many of the wanted ratings there are.
    """

    def __init__(
        self, items: Sequence[Item], per_item: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.order = [item.id for item in items]
        self.items = {item.id: item for item in items}
        self.per_item = per_item
        self.keys: set[str] = set()
        self.raters: dict[str, list[Action]] = {}
        self.rated: Counter[str] = Counter()
        self.flagged: dict[str, set[str]] = {}
        self.done = 0
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._leases: dict[str, dict[str, float]] = defaultdict(dict)  # item, rater: until when
        self._leased_to: dict[str, str] = {}  # the item that a rater looks at
        self._positions = {item: position for position, item in enumerate(self.order)}
        self._first_open = 0  # all items before it are rated
        self._number = 0

    def apply(self, record: Record) -> None:
        """Take a record of the log in."""
        kind = record["kind"]
        self._number += 1
        if kind == "item":
            item = Item(
                record["item"], record["prompt"], tuple(record["responses"]), tuple(record["sources"])
            )
            self.items.setdefault(item.id, item)
            self._seen.setdefault(item.id, _Seen())
        elif kind != "begin":
            self.keys.add(record["key"])
            rater = record["rater"]
            self.raters.setdefault(rater, [])
            if kind == "flag":
                self._flag(rater, self.items[record["item"]].id, record["on"])
            elif kind == "undo":
                self._undo(rater, record["of"])
            else:
                value, left = record.get("value"), record.get("left")
                self._do(Action(self._number, record["key"], rater, record["item"], value, left))

    def _do(self, action: Action) -> None:
        self.raters[action.rater].append(action)
        self.rated[action.rater] += action.value is not None
        self._change(action.item, action.rater, lambda actions: actions.append(action))
        if self._leased_to.get(action.rater) == action.item:
            self._release(action.rater)

    def _flag(self, rater: str, item: str, on: bool) -> None:
        raters = self.flagged.setdefault(item, set())
        (raters.add if on else raters.discard)(rater)
        if not raters:
            del self.flagged[item]

    def _undo(self, rater: str, key: str) -> None:
        mine = self.raters[rater]
        index = next((index for index in reversed(range(len(mine))) if mine[index].key == key), None)
        if index is not None:
            undone = mine.pop(index)
            self.rated[rater] -= undone.value is not None
            self._change(undone.item, rater, lambda actions: actions.remove(undone))
            self._first_open = min(self._first_open, self._positions.get(undone.item, self._first_open))

    def _change(self, item: str, rater: str, change: Callable[[list[Action]], None]) -> None:
        seen = self._seen[item]
        actions = seen.actions.setdefault(rater, [])
        before, count = _answer(actions), seen.answered
        change(actions)
        seen.answered += (_answer(actions) is not None) - (before is not None)
        if item in self._positions:
            self.done += min(seen.answered, self.per_item) - min(count, self.per_item)
        if not actions:
            del seen.actions[rater]

    def logged(self) -> Collection[str]:
        """Items that the log speaks of."""
        return self._seen.keys()

    def last(self, rater: str) -> Action | None:
        """What undo would take back."""
        actions = self.raters.get(rater)
        return actions[-1] if actions else None

    def answers(self, item: str) -> list[Action]:
        """The answer that counts of each rater."""
        by_rater = self._seen[item].actions.values() if item in self._seen else ()
        return [answer for actions in by_rater if (answer := _answer(actions)) is not None]

    def all_answers(self) -> list[Action]:
        """Those to all items that the log speaks of, oldest first."""
        return counting(self.raters.values())

    def next_for(self, rater: str, prefer: str | None = None) -> str | None:
        """Lease the rater per item: the one that they look at, else the preferred one, else the first.

        None where every item is rated, or has been rated or skipped by this rater, or is leased to others.
        """
        for item in (self._leased_to.get(rater), prefer):
            if item in self._positions and self._free(item, rater):
                self.lease(rater, item)
                return item
        self._release(rater)
        while self._first_open < len(self.order) and self._full(self.order[self._first_open]):
            self._first_open += 1
        for position in range(self._first_open, len(self.order)):
            if self._free(self.order[position], rater):
                self.lease(rater, self.order[position])
                return self.order[position]
        return None

    def lease(self, rater: str, item: str) -> None:
        """The rater looks at this item from now on, and at no other."""
        self._release(rater)
        self._leased_to[rater] = item
        self._leases[item][rater] = self._clock() + LEASE

    def _release(self, rater: str) -> None:
        item = self._leased_to.pop(rater, None)
        if item is not None:
            del self._leases[item][rater]

    def _full(self, item: str) -> bool:
        return item in self._seen and self._seen[item].answered >= self.per_item

    def _free(self, item: str, rater: str) -> bool:
        seen = self._seen.get(item)
        if seen is not None and (rater in seen.actions or seen.answered >= self.per_item):
            return False
        taken = seen.answered if seen is not None else 0
        if item in self._leases:
            now = self._clock()
            taken += sum(until > now for other, until in self._leases[item].items() if other != rater)
        return taken < self.per_item


def counting(raters: Iterable[Sequence[Action]]) -> list[Action]:
    """The answers that count, oldest first: of what each rater did, oldest first, the last to each item."""
    last = {(done.rater, done.item): done for actions in raters for done in actions if done.value is not None}
    return sorted(last.values(), key=lambda action: action.number)


def _answer(actions: list[Action]) -> Action | None:
    return next((action for action in reversed(actions) if action.value is not None), None)
