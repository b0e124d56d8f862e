"""A second Python process, with hashes of its own, in which a component answers the same: a run has several.

It lives as long as this one, and answers each request in a fork: what a component does to it stays there.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle  # between a process and the one that it started; nothing else is unpickled
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ppokit.errors import PpokitError
from ppokit.plugin.protocols import Stateful
from ppokit.testing.calls import Numbers, call, close, fresh, sample
from ppokit.testing.process_state import import_what_runs_do
from ppokit.testing.samples import TEXTS
from ppokit.testing.states import Encoded, decoded
from ppokit.testing.subject import Subject
from ppokit.testing.targets import find
from ppokit.testing.time_limit import paused

_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from ppokit.testing.second_process import main; main()"
)
_ANSWERED = 97  # exit code of a fork that has sent its answer


@dataclass(frozen=True)
class Answers:
    """What a component answers: built anew, and with a state that another object gave."""

    first: Numbers
    with_state: Numbers


def ask(subject: Subject, state: Encoded | None) -> Answers:
    """What it answers in the second process, as rank 1 of two.

    Args:
        state: as a checkpoint holds it; None where it keeps none.

    Raises:
        PpokitError: it failed there.
        ChildProcessError: it ended the process.
    """
    with paused():  # it imports what a run has imported
        process = _process()
    try:
        kind, value = process.exchange((sys.path, str(Path.cwd()), subject.request(), state))
    except BaseException:  # also that the time is over: its answer would be taken for the next one's
        process.end()
        _process.cache_clear()
        raise
    if kind == "exit":
        raise ChildProcessError(f"the process ended with exit code {value}")
    if kind == "error":
        raise PpokitError(value)
    answers: Answers = value
    return answers


class _Process:
    """The process, and the end that it is spoken to by."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _MAIN, json.dumps(sys.path), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what a component prints there, it prints here too
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": seed, "RANK": "1"},
            start_new_session=True,  # it is ended with all its forks
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._pid = os.getpid()
        atexit.register(self.end)
        self._connection.recv_bytes()  # it is ready

    def exchange(self, request: object) -> tuple[str, Any]:
        self._connection.send_bytes(pickle.dumps(request))
        answer: tuple[str, Any] = pickle.loads(self._connection.recv_bytes())
        return answer

    def end(self) -> None:
        if os.getpid() == self._pid and self._popen.returncode is None:  # not in a fork of this process
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
            self._connection.close()


@cache
def _process() -> _Process:
    return _Process()


def main() -> None:
    """The process: each request in a fork, until the other end is closed."""
    import_what_runs_do()  # once, not in each fork
    connection = Connection(int(sys.argv[2]))
    connection.send_bytes(b"")
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, ConnectionError):
            return
        pid = os.fork()
        if pid == 0:
            _answer(connection, request)
            os._exit(_ANSWERED)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != _ANSWERED:
            connection.send_bytes(pickle.dumps(("exit", code)))


def _answer(connection: Connection, request: bytes) -> None:
    try:
        path, folder, wanted, state = pickle.loads(request)
        sys.path[:] = path
        os.chdir(folder)
        subject = _found(wanted)
        rollout, later = sample(subject), sample(subject, TEXTS["special"])
        built = subject.build(rank=1)
        if state is not None and isinstance(built.instance, Stateful):
            instance: Any = built.instance
            instance.load_state_dict(decoded(state))
        answers = Answers(fresh(subject, rollout), call(subject, built, later))
        close(built)
        message: tuple[str, Any] = ("answers", answers)
    except Exception as error:
        message = ("error", f"{type(error).__name__}: {error}")
    connection.send_bytes(pickle.dumps(message))


def _found(wanted: dict[str, Any]) -> Subject:
    name = wanted.pop("name")
    (subject,) = [one for one in find(**wanted) if one.name == name]
    return subject
