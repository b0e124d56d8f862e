"""SIGINT and SIGTERM, turned into `Interrupted` where the state of a run is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ppokit.distributed import Processes
from ppokit.errors import Interrupted
from ppokit.run.watchdog import APART_S, watchdog

_SAVING_S = 10.0


class Signals:
    """Raises `Interrupted` at once, except while deferred, or among several processes at `check`.

    Several processes may not leave alone, or the others would wait for them for ever: each notes its
    signal, and all leave together at the next `check`. A second signal does not wait. While the last step is
    saved signals are ignored for some seconds; one that comes later ends the process, and so does one that
    Python cannot answer. A plugin may catch `Interrupted`: a second signal then raises it again, and a third
    ends the process. Two within a moment, as a launcher may send them, are one.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.pending = 0
        self._deferred = 0
        self._heard, self._heard_at = 0, 0.0  # signals, and when the last of them came
        self._leaving = False  # `Interrupted` has been raised
        self._saving_since: float | None = None
        self._answer: Callable[[], None] = lambda: None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle both signals inside; outside the main thread nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.pending, self._deferred, self._heard = 0, 0, 0
        self._leaving, self._saving_since = False, None
        with watchdog() as self._answer:
            before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let what is inside finish first."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Let the last step be saved; after `Interrupted`, signals are ignored for some seconds."""
        if self._leaving:
            self._saving_since = time.monotonic()
        with self.deferred():
            yield

    def defer(self) -> None:
        """Let everything finish until `resume`, whatever calls and blocks lie between."""
        self._deferred = 1

    def resume(self) -> None:
        """End what `defer` began, and leave now if a signal has come; every process calls this."""
        self._deferred = 0
        self.check()

    def check(self) -> None:
        """Leave now if a signal has come to any process, unless deferred; every process calls this."""
        if self._deferred:
            return
        numbers = [number for number in self.processes.gather([self.pending]) if number]
        if numbers:
            self._leave(numbers[0])

    def _leave(self, number: int) -> NoReturn:
        self._leaving = True
        raise Interrupted(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._answer()
        now = time.monotonic()
        self.pending = number
        if self._saving_since is not None:
            if now - self._saving_since > _SAVING_S:
                self._end(number)
            return
        if self._leaving and now - self._heard_at < APART_S:
            return
        self._heard, self._heard_at = self._heard + 1, now
        if self._heard > 2:
            self._end(number)
        elif self._heard == 2 or (not self._deferred and self.processes.count == 1):
            self._leave(number)

    def _end(self, number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
