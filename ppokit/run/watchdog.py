"""The second of two signals ends a process also where Python never runs its handler.

A handler in Python runs between two bytecodes of the main thread. Code in C that does not return, or that
holds the interpreter's lock in another thread, keeps it from running for ever. The kernel's own handler still
writes each signal into a pipe; a small process at its other end kills this one where a later signal is not
answered.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# A launcher and a terminal may send the same signal within a moment: those are one.
APART_S = 0.5
_ANSWER_S = 3.0
_ANSWER = 0

_WATCH = """
import os, select, signal, sys, time
pid, apart, patience = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
first = deadline = None
while True:
    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    if not select.select([0], [], [], timeout)[0]:
        os.kill(pid, signal.SIGKILL)
        break
    received = os.read(0, 1)
    if not received:
        break
    if received == b"\\0":
        first = deadline = None
    elif first is None:
        first = time.monotonic()
    elif deadline is None and time.monotonic() - first >= apart:
        deadline = time.monotonic() + patience
"""


@contextmanager
def watchdog() -> Iterator[Callable[[], None]]:
    """Kill this process where it does not answer the second of two signals; from the main thread alone.

    Yields: what a signal's handler calls to say that it runs.
    """
    if os.name == "nt":
        yield lambda: None
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid()), str(APART_S), str(_ANSWER_S)],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is not for it
    )
    os.close(read_end)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def answer() -> None:
        with suppress(OSError):
            os.write(write_end, bytes([_ANSWER]))

    try:
        yield answer
    finally:
        signal.set_wakeup_fd(before)
        os.close(write_end)
        process.kill()
        process.wait()
