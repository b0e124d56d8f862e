"""Processes in which one reward provider lives: started, asked, and ended where one outlasts its time."""

from __future__ import annotations

import json
import os
import pickle  # between a process and the one that it started; nothing else is unpickled
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ppokit import errors
from ppokit.errors import PpokitError
from ppokit.rewards.limits import SentFailureError

_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from ppokit.rewards.worker_process import main; main()"
)
# What a launcher tells the processes of a run; this is none of them.
_LAUNCHER = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_RESTART, _RESTART_S = 10, 60.0  # times the first start, or seconds, that a later one may take
_GRACE_S = 2.0  # for what a plugin does at exit


class WorkerPool:
    """The processes of one provider: a call has the next that is free, an event goes to each.

    Attributes:
        first: the one that tells of the provider, and whose state is kept.
    """

    def __init__(self, spec: bytes) -> None:
        self._spec = spec
        self.first = _Worker(spec)
        self.first.start()
        self._workers = [self.first]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._free.put(self.first)

    def grow(self, count: int) -> None:
        """Start as many as there are to be, beside one another.

        Raises:
            PpokitError: the provider cannot be built.
        """
        more = [_Worker(self._spec) for _ in range(count - 1)]
        self._workers += more
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(_Worker.start, more))
        for worker in more:
            self._free.put(worker)

    def tell(self, event: str, arguments: Sequence[Any], timeout: float | None) -> None:
        for worker in self._workers:
            worker.tell(event, arguments, timeout)

    def call(self, method: str, arguments: Sequence[Any], timeout: float | None) -> Any:
        worker = self._free.get()  # the core makes no more calls at once than there are
        try:
            return worker.call(method, arguments, timeout)
        finally:
            self._free.put(worker)

    def end(self, *, kill: bool = False) -> None:
        for worker in self._workers:
            worker.end(kill=kill)


class _Worker:
    """A process, started again where it has ended.

    Attributes:
        method: `score` or `score_one`, by which the provider is asked.
        awaited: whether that is a coroutine.
        sizes: how its calls are cut.
        stateful: whether the provider has `state_dict` and `load_state_dict`.
        events: arguments that it names, by the events for which it has methods.
        state: of the provider, after the last call that returned.
    """

    def __init__(self, spec: bytes) -> None:
        self._spec = spec
        self._process: _Process | None = None
        self._seconds: float | None = None  # that the first one took to be ready
        self._run_start: Sequence[Any] | None = None  # a process that is started later hears of it too
        self.state: Mapping[str, Any] | None = None
        self._lock = threading.Lock()  # an event may come during a call

    def tell(self, event: str, arguments: Sequence[Any], timeout: float | None) -> None:
        self.call(event, arguments, timeout)
        if event == "on_run_start":
            self._run_start = arguments

    def call(self, method: str, arguments: Sequence[Any], timeout: float | None) -> Any:
        with self._lock:
            process = self._process or self.start()
            try:
                value, self.state = process.exchange((method, arguments), timeout)
            except BaseException as error:  # also a signal's: its answer would be taken for the next one's
                if not isinstance(error, PpokitError):
                    self.end(kill=True)
                raise
            return value

    def end(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.end(kill=kill)
            self._process = None

    def start(self) -> _Process:
        limit = None if self._seconds is None else max(_RESTART_S, _RESTART * self._seconds)
        began, process = time.monotonic(), _Process(self._spec)
        try:
            (self.method, self.awaited, self.sizes, self.stateful, self.events), initial = process.exchange(
                None, limit
            )
            if self.stateful and self.state is not None:
                process.exchange(("load_state_dict", [self.state]), limit)
            else:
                self.state = initial
            if self._run_start is not None:
                process.exchange(("on_run_start", self._run_start), limit)
        except BaseException as error:
            process.end(kill=True)
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"its process was started again, and is not ready: {error}") from error
            raise
        self._seconds = self._seconds or time.monotonic() - began
        self._process = process
        return process


class _Process:
    """One process, and the two ends that it is spoken to by."""

    def __init__(self, spec: bytes) -> None:
        ours, theirs = socket.socketpair()
        read_end, self._lifeline = os.pipe()
        command = [sys.executable, "-c", _MAIN, json.dumps(sys.path), str(theirs.fileno()), str(read_end)]
        self._popen = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), read_end),
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name not in _LAUNCHER},
            start_new_session=True,  # not interrupted with the trainer's, and ended with all that it started
        )
        theirs.close()
        os.close(read_end)
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(
            self, _end, os.getpid(), self._popen, self._connection, self._lifeline, 0.0
        )
        self._connection.send_bytes(spec)

    def exchange(self, request: object, timeout: float | None) -> tuple[Any, Any]:
        """The value that a request returns, and the provider's state after it; None waits for the first."""
        try:
            if request is not None:
                self._connection.send_bytes(pickle.dumps(request))
            if not self._connection.poll(timeout):
                raise TimeoutError(f"no answer in {timeout:g} s")
            kind, value, state = pickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(f"its process ended with exit code {self._popen.wait()}") from error
        if isinstance(value, SentFailureError):
            raise value
        if kind:
            raise getattr(errors, kind)(value)
        return value, state

    def end(self, *, kill: bool) -> None:
        """End it, and all that it started; with `kill` at once."""
        if self._finalizer.detach() is not None:
            _end(os.getpid(), self._popen, self._connection, self._lifeline, 0.0 if kill else _GRACE_S)


def _end(
    pid: int, popen: subprocess.Popen[bytes], connection: Connection, lifeline: int, grace: float
) -> None:
    if os.getpid() != pid:  # a fork of the trainer's
        return
    connection.close()  # an idle process then leaves by itself
    with suppress(subprocess.TimeoutExpired):
        popen.wait(grace)
    if popen.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
    os.close(lifeline)  # ends what is left of its group
