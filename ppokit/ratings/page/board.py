"""Who has rated what, and who gets which item next.

An item is wanted from `per_item` raters. While one of them looks at it, it is leased to them and counts as
taken; a lease that is not renewed in `LEASE` seconds ends. All raters go through the items in the same order, so
that items get their last ratings early and not only at the end. What someone sends after their lease has ended
counts all the same: an item may then get one rating too many, but none is thrown away.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ppokit.ratings.page.items import Item
from ppokit.ratings.page.log import Record

LEASE = 600.0
Value = int | str


@dataclass(frozen=True, slots=True, order=True)
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
    """What has been done with one item: by rater, and how many of them have answered."""

    actions: dict[str, list[Action]] = field(default_factory=dict)
    answered: int = 0
    flags: set[str] = field(default_factory=set)
    leases: dict[str, float] = field(default_factory=dict)  # rater: until when


class Board:
    """The state that the log's records add up to, and the leases, which no log holds.

    Args:
        items: in the order in which they are to be rated.
        per_item: by how many raters each.
        clock: seconds, never backwards.
    """

    def __init__(
        self, items: Sequence[Item], per_item: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.order = [item.id for item in items]
        self.items = {item.id: item for item in items}
        self.per_item = per_item
        self.keys: set[str] = set()
        self.raters: dict[str, list[Action]] = {}  # what counts of each, oldest first
        self._clock = clock
        self._seen: dict[str, _Seen] = defaultdict(_Seen)
        self._held: dict[str, str] = {}
        self._places = {item: place for place, item in enumerate(self.order)}
        self._first_open = 0
        self._number = 0

    def apply(self, record: Record) -> None:
        """Take a record of the log in."""
        kind = record["kind"]
        self._number += 1
        if kind == "item":
            item = Item(record["item"], record["prompt"], tuple(record["responses"]), tuple(record["sources"]))
            self.items.setdefault(item.id, item)
            self._seen[item.id]  # it is in the log, so it is not written again
        elif kind in ("answer", "skip", "flag", "undo"):
            self.keys.add(record["key"])
            rater = record["rater"]
            self.raters.setdefault(rater, [])
            if kind == "flag":
                flags = self._seen[record["item"]].flags
                (flags.add if record["on"] else flags.discard)(rater)
            elif kind == "undo":
                self._undo(rater, record["of"])
            else:
                self._do(
                    Action(
                        self._number,
                        record["key"],
                        rater,
                        record["item"],
                        record.get("value"),
                        record.get("left"),
                    )
                )

    def _do(self, action: Action) -> None:
        insort(self.raters[action.rater], action)
        self._change(action.item, action.rater, lambda held: held.append(action))
        self.release(action.rater)

    def _undo(self, rater: str, key: str) -> None:
        of = next(action for action in reversed(self.raters[rater]) if action.key == key)
        self.raters[rater].remove(of)
        self._change(of.item, rater, lambda held: held.remove(of))
        self._first_open = min(self._first_open, self._places.get(of.item, self._first_open))

    def _change(self, item: str, rater: str, change: Callable[[list[Action]], None]) -> None:
        seen = self._seen[item]
        held = seen.actions.setdefault(rater, [])
        before = _answer(held)
        change(held)
        seen.answered += (_answer(held) is not None) - (before is not None)
        if not held:
            del seen.actions[rater]

    def logged(self, item: str) -> bool:
        """Whether the log holds the item's texts."""
        return item in self._seen

    def last(self, rater: str) -> Action | None:
        """What undo would take back."""
        actions = self.raters.get(rater)
        return actions[-1] if actions else None

    def flagged(self, item: str) -> set[str]:
        """Who has flagged it."""
        return self._seen[item].flags if item in self._seen else set()

    def answers(self, item: str) -> list[Action]:
        """The answer that counts of each rater."""
        if item not in self._seen:
            return []
        return [found for held in self._seen[item].actions.values() if (found := _answer(held))]

    def all_answers(self) -> list[Action]:
        """Those of all items, also of such as are no longer to be rated, oldest first."""
        return sorted(answer for item in list(self._seen) for answer in self.answers(item))

    def rated_items(self) -> Iterable[str]:
        """Items that the log speaks of."""
        return list(self._seen)

    def done(self) -> int:
        """How many of the wanted ratings there are."""
        return sum(
            min(self._seen[item].answered, self.per_item) for item in self.order if item in self._seen
        )

    def release(self, rater: str) -> None:
        """The rater no longer looks at an item."""
        item = self._held.pop(rater, None)
        if item is not None:
            self._seen_or_new(item).leases.pop(rater, None)

    def lease(self, rater: str, item: str) -> None:
        """The rater looks at the item from now on, and at no other."""
        if self._held.get(rater) != item:
            self.release(rater)
        self._held[rater] = item
        self._leases[item][rater] = self._clock() + LEASE

    def next_for(self, rater: str, prefer: str | None = None) -> str | None:
        """Lease the rater an item: the one that they look at, else the preferred one, else the first there is.

        None where all are rated, or have been rated or skipped by this rater, or are leased to others.
        """
        now = self._clock()
        for item in (self._held.get(rater), prefer):
            if item is not None and item in self._places and self._free(item, rater, now):
                self.lease(rater, item)
                return item
        self.release(rater)
        while self._first_open < len(self.order) and self._full(self.order[self._first_open]):
            self._first_open += 1
        for place in range(self._first_open, len(self.order)):
            if self._free(self.order[place], rater, now):
                self.lease(rater, self.order[place])
                return self.order[place]
        return None
