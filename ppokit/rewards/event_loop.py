"""The event loop of a run, in a thread of its own, and threads whose calls can be given up.

One loop per run and process: providers' HTTP client lives on it. A thread cannot be stopped; one that is
given up is a daemon, which keeps no process from ending, and is counted until it returns.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ppokit.errors import RewardError, in_one_paragraph
from ppokit.messages import listed
from ppokit.plugin.scoring import close_http_client

T = TypeVar("T")

_CLOSE_S = 5.0


class EventLoop:
    """Runs coroutines in a thread; started by the first.

    Args:
        set_up: called in each thread before its first call, such as to choose its GPU.

    Attributes:
        max_given_up: calls that may be given up at a time; None for any number.
    """

    def __init__(self, set_up: Callable[[], None] = lambda: None) -> None:
        self.set_up = set_up
        self.max_given_up: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._idle: list[_Worker] = []
        self._given_up: list[tuple[str, asyncio.Future[Any]]] = []

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin a coroutine; its result is waited for elsewhere."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), daemon=True)
            self._thread.name = "ppokit rewards"
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def wait(self, future: concurrent.futures.Future[T], patience: float | None) -> T:
        """The result of what was begun.

        Args:
            patience: seconds for which the loop may not answer; None for any.

        Raises:
            TimeoutError: it did not: a coroutine blocks it, and none can be cancelled.
        """
        assert self._loop is not None
        while True:
            beat = threading.Event()
            self._loop.call_soon_threadsafe(beat.set)
            done, _ = concurrent.futures.wait([future], timeout=patience)
            if done:
                return future.result()
            if not beat.is_set():
                raise TimeoutError(f"the event loop did not answer for {patience:g} s")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine."""
        return self.start(coroutine).result()

    async def in_thread(self, call: Callable[[], T], timeout: float | None, name: str) -> T:
        """What a call returns that blocks, from a thread of its own.

        Raises:
            TimeoutError: it took longer; its thread goes on, and is counted by `given_up`.
            RewardError: too many threads go on already.
        """
        self.limit_given_up()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        worker = self._idle.pop() if self._idle else _Worker(self.set_up)

        def settle(result: T | None, error: Exception | None) -> None:
            if self._loop is loop:
                self._idle.append(worker)
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def work() -> None:
            result: T | None = None
            error: Exception | None = None
            try:
                result = call()
            except Exception as raised:  # is raised where it is waited for
                error = raised
            except BaseException as raised:  # would end the loop
                error = RuntimeError(in_one_paragraph(raised))
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result, error)
            if self._loop is not loop:  # and wants no more calls
                worker.jobs.put(None)

        worker.name = name
        worker.jobs.put(work)
        try:
            done, _ = await asyncio.wait({future}, timeout=timeout)
        except asyncio.CancelledError:
            self.give_up(name, future)
            raise
        if not done:
            self.give_up(name, future)
            raise TimeoutError(f"no answer in {timeout:g} s")
        return future.result()

    def give_up(self, name: str, future: asyncio.Future[Any]) -> None:
        """Wait no more for a call that cannot be ended."""
        self._given_up.append((name, future))

    def given_up(self) -> list[str]:
        """Names of the calls that were given up and have not returned."""
        return [name for name, future in list(self._given_up) if not future.done()]

    def limit_given_up(self) -> None:
        """Begin no more calls where too many were given up.

        Raises:
            RewardError: too many go on.
        """
        self._given_up = [(name, future) for name, future in self._given_up if not future.done()]
        check_given_up(self.given_up(), self.max_given_up)

    def close(self) -> None:
        """End the loop: what still runs on it is cancelled, and the HTTP client is closed."""
        if self._loop is None or self._thread is None:
            return
        loop, self._loop = self._loop, None
        ending = asyncio.run_coroutine_threadsafe(_wind_up(), loop)
        with suppress(TimeoutError):  # a coroutine that blocks: its thread is a daemon
            ending.result(_CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            loop.close()
        while self._idle:
            self._idle.pop().jobs.put(None)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self.set_up()
        asyncio.set_event_loop(loop)
        while self._loop is loop:  # a provider may stop it, or leave a task behind that would end it
            with suppress(BaseException):
                loop.run_forever()


def check_given_up(names: Sequence[str], most: int | None) -> None:
    """Stop where too many calls go on after their time-out.

    Raises:
        RewardError: they do.
    """
    if most is not None and len(names) > most:
        raise RewardError(
            f"{len(names)} calls of rewards go on after their timeout, those of "
            f"{listed(sorted(set(names)))}; more than run.max_hung_calls allows ({most}). With "
            "isolate: process a call is ended at its timeout."
        )


class _Worker(threading.Thread):
    """A thread that makes one call after another."""

    def __init__(self, set_up: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._set_up = set_up
        self.start()

    def run(self) -> None:
        """Make calls until there are no more."""
        self._set_up()
        while (job := self.jobs.get()) is not None:
            job()


async def _wind_up() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:  # one may go on though it is cancelled
        await asyncio.wait(tasks, timeout=_CLOSE_S / 2)
    await close_http_client()
