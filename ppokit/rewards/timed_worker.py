"""A reward provider in a process of its own, which is ended where a call takes longer than its `timeout`.

A thread cannot be stopped, and code in C that holds the interpreter's lock, such as a regular expression that
backtracks, also keeps the main thread from hearing of signals. The process builds the provider from what the
recipe names, as every process of a run does. It never outlives the trainer: however that ends, the kernel
ends the process. After a time-out the next call starts a new one, with the state of the last call that
returned.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle  # between a process and the one that it started; nothing else is unpickled
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ppokit import errors
from ppokit.errors import PluginError, PpokitError, plugin_call
from ppokit.plugin.hookspecs import EVENTS
from ppokit.plugin.protocols import BuildContext, Stateful
from ppokit.plugin.types import RewardOutput, Rollout
from ppokit.rewards.outcomes import attempt

if TYPE_CHECKING:
    from ppokit.config.settings import SelectedComponent

_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from ppokit.rewards.timed_worker import main; main()"
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
_GRACE_S = 2.0  # for what a plugin does at exit


def in_worker(
    choice: SelectedComponent, use: str, context: BuildContext, where: str, timeout: float
) -> WorkerProvider:
    """The provider that a recipe names, in a process of its own.

    Args:
        choice: the recipe's, with its validated options.
        use: how the recipe names it.
        context: for the component's `build`; a base cannot be shared with another process.
        where: how errors name it.
        timeout: seconds of a call; building is not limited.

    Raises:
        PpokitError: it cannot be built, or has methods for events, which another process does not hear.
    """
    try:
        spec = pickle.dumps((choice.kind, use, choice.options.model_dump(by_alias=True), context, where))
    except Exception as error:
        raise PluginError(
            f"{where}: its options cannot be sent to the process that a timeout needs: {error}"
        ) from error
    worker = _Worker(spec)
    if worker.events:
        worker.end()
        raise PluginError(
            f"{where} implements {', '.join(worker.events)}, which a reward with a timeout does not hear, in "
            "a process of its own; leave the timeout out."
        )
    return (StatefulWorkerProvider if worker.stateful else WorkerProvider)(worker, timeout)


class WorkerProvider:
    """Passes calls on to the provider in its process."""

    def __init__(self, worker: _Worker, timeout: float) -> None:
        self.worker = worker
        self.timeout = timeout

    def score(self, rollout: Rollout) -> RewardOutput:
        """As the provider's.

        Raises:
            TimeoutError: no answer in time.
            ChildProcessError: the process ended.
            PpokitError: what the provider raised.
        """
        output: RewardOutput = self.worker.call("score", rollout, self.timeout)
        return output

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
        self.worker.call("load_state_dict", state, self.timeout)


class _Worker:
    """The process, started again where it has ended.

    Attributes:
        stateful: whether the provider has `state_dict` and `load_state_dict`.
        events: the events for which it has methods.
        state: of the provider, after the last call that returned.
    """

    def __init__(self, spec: bytes) -> None:
        self._spec = spec
        self._process: _Process | None = None
        self.state: Mapping[str, Any] | None = None
        self._start()

    def call(self, method: str, argument: object, timeout: float | None) -> Any:
        process = self._process or self._start()
        try:
            value, self.state = process.exchange((method, argument), timeout)
        except BaseException as error:  # also a signal's: an answer to come would be taken for the next one's
            if not isinstance(error, PpokitError):
                self.end(kill=True)
            raise
        return value

    def end(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.end(kill=kill)
            self._process = None

    def _start(self) -> _Process:
        process = _Process(self._spec)
        try:
            (self.stateful, self.events), initial = process.exchange(None, None)
            if self.stateful and self.state is not None:
                process.exchange(("load_state_dict", self.state), None)
            else:
                self.state = initial
        except BaseException:
            process.end(kill=True)
            raise
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


def main() -> None:
    """The process: build the provider, then answer requests until the trainer closes its end."""
    connection, lifeline = Connection(int(sys.argv[2])), int(sys.argv[3])
    # When the last writer of the pipe has gone the kernel sends SIGIO, which ends the group.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        kind, use, options, context, where = pickle.loads(connection.recv_bytes())
        provider = _build(kind, use, options, context, where)
    except PpokitError as error:
        connection.send_bytes(pickle.dumps((type(error).__name__, str(error), None)))
        return
    events = [event for event in EVENTS if callable(getattr(provider, event, None))]
    _reply(connection, "", (isinstance(provider, Stateful), events), provider, where)
    while True:
        try:
            method, argument = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            return
        try:
            value, failure = attempt(where, lambda: getattr(provider, method)(argument))  # noqa: B023
            kind = "RewardError" if failure else ""
            value = failure or value
        except PluginError as error:
            kind, value = "PluginError", str(error)
        _reply(connection, kind, value, provider, where)
        sys.stdout.flush()


def _build(kind: str, use: str, options: Mapping[str, Any], context: BuildContext, where: str) -> Any:
    import torch

    from ppokit.config.registry import PluginRegistry

    torch.manual_seed(context.seed)
    with plugin_call(where, "build"):
        component, _ = PluginRegistry().component(kind, use)
        return component.build(component.options.model_validate(options), context)


def _reply(connection: Connection, kind: str, value: object, provider: Any, where: str) -> None:
    try:
        with plugin_call(where, "state_dict"):
            state = provider.state_dict() if isinstance(provider, Stateful) else None
        message = pickle.dumps((kind, value, state))
    except Exception as error:
        text = str(error) if isinstance(error, PluginError) else f"its answer cannot be sent: {error}"
        message = pickle.dumps(("PluginError", text, None))
    connection.send_bytes(message)
