"""A reward provider in a process of its own (`isolate: process`), ended where a call outlasts its `timeout`.

A thread cannot be stopped, and code in C that holds the interpreter's lock, such as a regular expression
that backtracks, also keeps the main thread from hearing of signals. The process (`worker_process`) builds the
provider from what the recipe names, as every process of a run does, and hears of the run's events. It never
outlives the trainer: however that ends, the kernel ends the process. After a time-out the next call starts a
new one, with the state of the last call that returned.
"""

from __future__ import annotations

import inspect
import json
import os
import pickle  # between a process and the one that it started; nothing else is unpickled
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ppokit.errors import PluginError, PpokitError
from ppokit.plugin.hookspecs import Events, hookimpl
from ppokit.plugin.protocols import BuildContext
from ppokit.plugin.scoring import RewardContext
from ppokit.rewards.limits import SentFailureError

if TYPE_CHECKING:
    from ppokit.config.components import SelectedComponent

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
_NO_CONTEXT = RewardContext()
_RESTART, _RESTART_S = 10, 60.0  # times the first start, or seconds, that a later one may take
_GRACE_S = 2.0  # for what a plugin does at exit


def in_worker(
    reward: SelectedComponent, context: BuildContext, disabled: Sequence[str] = ()
) -> WorkerProvider:
    """The provider that a recipe names, in a process of its own.

    Args:
        reward: the recipe's; its timeout is of calls, building is not limited.
        context: for the component's `build`; a base cannot be shared with another process.
        disabled: plugins that `use` does not mean.

    Raises:
        PpokitError: it cannot be built.
    """
    options, where = reward.options.model_dump(by_alias=True), reward.where
    try:
        spec = pickle.dumps((reward.kind, reward.settings.use, options, context, where, tuple(disabled)))
    except Exception as error:
        raise PluginError(f"{where}: its options cannot be sent to a process of its own: {error}") from error
    worker = _Worker(spec)
    base = StatefulWorkerProvider if worker.stateful else WorkerProvider
    members: dict[str, Any] = {event: _forward(event, names) for event, names in worker.events.items()}
    members[worker.method] = _ask(worker.method)
    provider: WorkerProvider = type(base.__name__, (base,), members)(worker, reward.settings.timeout)
    return provider


def _ask(method: str) -> Callable[..., Any]:
    """The provider's one method, as it has it: `score` or `score_one`."""

    def ask(self: WorkerProvider, given: Any, context: RewardContext = _NO_CONTEXT) -> Any:
        """As the provider's.

        Raises:
            TimeoutError: no answer in time.
            ChildProcessError: the process ended.
            PpokitError: what the provider raised.
        """
        # The process has the tokenizer of its build: sending one takes as long as most rewards do.
        return self.worker.call(method, [given, replace(context, tokenizer=None)], self.timeout)

    return ask


def _forward(event: str, names: Sequence[str]) -> Callable[..., None]:
    """A method that passes an event on with the arguments that the provider's own method names."""
    specification = getattr(Events, event)
    given = list(inspect.signature(specification).parameters)[1:]

    @wraps(specification)
    def forward(self: WorkerProvider, *values: Any) -> None:
        # A mapping that refuses changes cannot be sent.
        sent = {k: dict(v) if isinstance(v, Mapping) else v for k, v in zip(given, values, strict=True)}
        self.worker.tell(event, [sent[name] for name in names], self.timeout)

    method: Callable[..., None] = hookimpl(forward)
    return method


class WorkerProvider:
    """Passes calls on to the provider in its process, with its method `score` or `score_one`."""

    is_isolated = True

    def __init__(self, worker: _Worker, timeout: float | None) -> None:
        self.worker = worker
        self.timeout = timeout
        self.whole_groups, self.responses_per_call = worker.sizes

    def close(self) -> None:
        """End the process."""
        self.worker.end()


class StatefulWorkerProvider(WorkerProvider):
    """One whose provider keeps state from step to step."""

    def state_dict(self) -> Mapping[str, Any]:
        """After the last call that returned."""
        return self.worker.state or {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the provider's."""
        self.worker.call("load_state_dict", [state], self.timeout)


class _Worker:
    """The process, started again where it has ended.

    Attributes:
        method: `score` or `score_one`, by which the provider is asked.
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
        self._lock = threading.Lock()  # one call at a time
        self._start()

    def tell(self, event: str, arguments: Sequence[Any], timeout: float | None) -> None:
        self.call(event, arguments, timeout)
        if event == "on_run_start":
            self._run_start = arguments

    def call(self, method: str, arguments: Sequence[Any], timeout: float | None) -> Any:
        with self._lock:
            process = self._process or self._start()
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

    def _start(self) -> _Process:
        limit = None if self._seconds is None else max(_RESTART_S, _RESTART * self._seconds)
        began, process = time.monotonic(), _Process(self._spec)
        try:
            (self.method, self.sizes, self.stateful, self.events), initial = process.exchange(None, limit)
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
            raise PluginError(value)
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
