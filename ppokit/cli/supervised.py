"""`plugins check` in a child of this process: a plugin may end it, and is then named.

By `os._exit`, a signal, a fault in C or a KeyboardInterrupt a process ends without a word, some of them with
exit code 0, and a pipeline would go on.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile

_FORWARDED = (signal.SIGTERM, signal.SIGHUP)
_AWAITED = (*_FORWARDED, signal.SIGINT, signal.SIGCHLD)  # SIGINT goes to all that a terminal shows


def go_on_in_child() -> None:
    """Return in a child of this process; here, end as the child ends.

    Where it ended while something was tried (`ppokit.testing.progress`), say so, and end with exit code 1.
    """
    if not hasattr(os, "fork"):
        return
    stopped = False  # by a signal of others, which the child has too
    with tempfile.TemporaryFile() as tried:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)  # none is missed between two lines
        child = os.fork()
        if child == 0:
            from ppokit.testing import progress

            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            progress.watcher = os.dup(tried.fileno())
            return
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            number = signal.sigwait(_AWAITED)
            stopped |= number != signal.SIGCHLD
            if number in _FORWARDED:
                os.kill(child, number)
        code = os.waitstatus_to_exitcode(ended[1])
        what = tried.read().decode()
    if what and not stopped:
        end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        print(
            f"ppokit: error: {what}: it ended the whole process ({end}), as it would end a run; raise an "
            "exception instead",
            file=sys.stderr,
        )
        code = 1
    sys.exit(code if code >= 0 else 128 - code)
