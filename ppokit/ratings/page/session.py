"""A rating session: what raters do is checked, written to the log, and only then taken in and confirmed."""

from __future__ import annotations

import hashlib
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppokit.errors import DataError, PpokitError
from ppokit.ratings.page.assignments import Action, AssignmentQueue, counting
from ppokit.ratings.page.files import flagged_of, log_of, write_files
from ppokit.ratings.page.items import Item
from ppokit.ratings.page.log import VERSION, Log
from ppokit.ratings.page.running import RunningAlpha

LONGEST_NAME = 60
PAIR_VALUES: Mapping[Any, float] = {"first": 1, "tie": 0.5, "second": 0}  # of the two texts in sorted order


class RefusedError(PpokitError):
    """The page asked for something that cannot be; the answer says why."""


@dataclass(frozen=True)
class SessionConfig:
    """What raters are asked.

    Attributes:
        pairs: which of two responses is better; else a number for each.
        scale: the smallest and the largest number.
        seed: decides which response of a pair stands on the left, for each rater anew.
    """

    pairs: bool
    scale: tuple[int, int]
    seed: int


class RatingSession:
    """One session; all of it may be called from several threads.

    Args:
        out: the CSV file.
        queue: what is to be rated; the log's records are applied to it.

    Raises:
        DataError: the log is in use, broken, or of a session on another config; or there is a CSV but no
            log, so that ratings from elsewhere would be overwritten.
    """

    def __init__(self, out: Path, queue: AssignmentQueue, config: SessionConfig) -> None:
        self.out, self.queue, self.config = out, queue, config
        self.alpha = RunningAlpha()
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._saved = -1  # how many changes the CSV holds
        self._changes = 0
        path = log_of(out)
        for file in (out, flagged_of(out)):
            if file.exists() and not path.exists():
                raise DataError(
                    f"{file} is there already, but not its log {path.name}, so it is no file of the rating "
                    "page and is not overwritten; give another name by --out."
                )
        self.log = Log(path)
        try:
            self._replay()
        except BaseException:
            self.log.close()
            raise

    def _replay(self) -> None:
        begin = {"kind": "begin", "version": VERSION, "pairs": self.config.pairs}
        if not self.config.pairs:
            begin["scale"] = list(self.config.scale)
        if not self.log.records:
            self.log.append(begin)
        for number, record in enumerate(self.log.records, 1):
            if number == 1 and {key: record.get(key) for key in ("kind", "version", "pairs", "scale")} != {
                "scale": None,
                **begin,
            }:
                raise DataError(
                    f"{self.log.path} was begun {_begun(record)}, but this is {_begun(begin)}. Go on as it "
                    "was begun, or give another --out."
                )
            try:
                self.queue.apply(record)
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{self.log.path} line {number} does not fit the lines before it "
                    f"({type(error).__name__}: {error}). Correct or remove that line."
                ) from error
        self.log.records.clear()
        for item in self.queue.logged():
            self._measure(item)

    def rater(self, name: Any) -> str:
        """The name of a rater, as it was first written: case and blanks do not make another person.

        Raises:
            RefusedError: it is empty, too long, or holds what cannot be seen.
        """
        text = " ".join(unicodedata.normalize("NFC", name).split()) if isinstance(name, str) else ""
        if not text or len(text) > LONGEST_NAME or not text.isprintable():
            raise RefusedError(f"A name has 1 to {LONGEST_NAME} letters.")
        with self._lock:
            folded = text.casefold()
            return next((known for known in self.queue.raters if known.casefold() == folded), text)

    def act(self, rater: str, kind: Any, key: Any, item: Any, value: Any) -> dict[str, Any]:
        """Do what a rater wants, once for each key; returns `state` after it.

        Args:
            kind: `answer`, `skip`, `flag` or `undo`.
            key: unique to what is done; sent again, it changes nothing.
            item: what it is about; not for `undo`.
            value: of an answer, a number on the scale, or `first`, `second` or `tie`; of a flag, whether it
                is on.

        Raises:
            RefusedError: one of these is not as above.
            NotSavedError: it could not be written to the log, and has not happened.
        """
        if not isinstance(key, str) or not 8 <= len(key) <= 64 or not key.isascii():
            raise RefusedError("Each action needs a key of 8 to 64 letters.")
        with self._lock:
            if key in self.queue.keys:
                return self._state(rater, None, item if kind == "flag" and isinstance(item, str) else None)
            record: dict[str, Any] = {"kind": kind, "key": key, "rater": rater}
            undone = None
            if kind == "undo":
                undone = self.queue.last(rater)
                if undone is None:
                    return self._state(rater, None)
                record["of"] = undone.key
                item = undone.item
            elif kind not in ("answer", "skip", "flag"):
                raise RefusedError(f"There is no action {kind!r}.")
            elif not isinstance(item, str) or item not in self.queue.items:
                raise RefusedError("That response is no longer to be rated.")
            else:
                record["item"] = item
                record |= self._value(kind, value, item, rater)
            texts = [] if item in self.queue.logged() else [_texts(self.queue.items[item])]
            self.log.append(*texts, record)
            for line in (*texts, record):
                self.queue.apply(line)
            self._measure(item)
            self._changes += 1
            if undone is not None:
                self.queue.lease(rater, item)
                return self._state(rater, undone)
            return self._state(rater, None, item if kind == "flag" else None)

    def _value(self, kind: str, value: Any, item: str, rater: str) -> dict[str, Any]:
        if kind == "skip":
            return {}
        if kind == "flag":
            if not isinstance(value, bool):
                raise RefusedError(f"A flag is on or off, not {value!r}.")
            return {"on": value}
        low, high = self.config.scale
        if self.config.pairs:
            if not isinstance(value, str) or value not in PAIR_VALUES:
                raise RefusedError(f"The answer is {value!r}; expected first, second or tie.")
            return {"value": value, "left": self._left(item, rater)}
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise RefusedError(f"The rating is {value!r}; expected a whole number from {low} to {high}.")
        return {"value": value}

    def state(self, rater: str, prefer: Any = None) -> dict[str, Any]:
        """What the rater's page shows; leases the item in it.

        Args:
            prefer: an item that the page still shows, from before the server was started again.
        """
        with self._lock:
            return self._state(rater, None, prefer if isinstance(prefer, str) else None)

    def _state(self, rater: str, undone: Action | None, prefer: str | None = None) -> dict[str, Any]:
        leased = undone.item if undone is not None else self.queue.next_for(rater, prefer)
        mine = self.queue.rated[rater]
        alpha = self.alpha.value()
        return {
            "rater": rater,
            "pairs": self.config.pairs,
            "scale": self.config.scale,
            "item": None if leased is None else self._shown(leased, rater),
            "previous": None if undone is None else undone.value,
            "progress": {
                "mine": mine,
                "skipped": len(self.queue.raters.get(rater, ())) - mine,
                "done": self.queue.done,
                "wanted": len(self.queue.order) * self.queue.per_item,
                "raters": sum(bool(actions) for actions in self.queue.raters.values()),
                "alpha": None if alpha is None else round(alpha, 4),
                "shared": self.alpha.items,
            },
        }

    def _shown(self, item: str, rater: str) -> dict[str, Any]:
        """An item without what would give away who wrote it."""
        it = self.queue.items[item]
        order = [0, 1] if self.config.pairs else [0]
        if self._left(item, rater):
            order.reverse()
        return {
            "id": item,
            "prompt": it.prompt,
            "responses": [it.responses[index] for index in order],
            "values": [("first", "second")[index] for index in order],
            "flagged": rater in self.queue.flagged.get(item, ()),
        }

    def _left(self, item: str, rater: str) -> int:
        """Which of the two texts stands on the left."""
        return hashlib.sha256(f"{self.config.seed} {rater} {item}".encode()).digest()[0] & 1

    def _measure(self, item: str) -> None:
        values = (answer.value for answer in self.queue.answers(item))
        self.alpha.replace(item, (PAIR_VALUES[v] if self.config.pairs else v for v in values))  # type: ignore[misc]

    def save(self) -> None:
        """Write the CSV files where something has changed since; the old ones stay until then."""
        with self._saving:
            with self._lock:
                if self._changes == self._saved:
                    return
                changes = self._changes
                # Copies only: raters wait as long as this lock is held.
                actions = [list(mine) for mine in self.queue.raters.values()]
                flagged = {item: sorted(raters) for item, raters in self.queue.flagged.items()}
            write_files(self.out, self.queue.items, counting(actions), flagged, pairs=self.config.pairs)
            self._saved = changes

    def close(self) -> None:
        """Write the CSV files and let go of the log."""
        try:
            self.save()
        finally:
            self.log.close()


def _texts(item: Item) -> dict[str, Any]:
    texts = {"prompt": item.prompt, "responses": item.responses, "sources": item.sources}
    return {"kind": "item", "item": item.id, **texts}


def _begun(begin: Mapping[str, Any]) -> str:
    if begin.get("version") != VERSION:
        return "by another version of ppokit, or by another program"
    scale = begin.get("scale") or ("?", "?")
    return "with --pairs" if begin.get("pairs") else f"with --scale {scale[0]}-{scale[1]}"
