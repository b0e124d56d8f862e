"""The end of a process neither waits for threads that a plugin has left behind nor fails because of them."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time

from ppokit.messages import listed

_GRACE_S = 5.0


class Leaving:
    """Ends this process with an exit code, whatever threads still run.

    The interpreter waits for threads that are no daemons, and a daemon that computes in C++ aborts the
    process when the interpreter ends. So the process ends after everything that is to be done at its exit, by
    itself or after some seconds. Made before anything else registers what is to be done then: it comes last.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        atexit.register(self._leave)

    def with_code(self, code: int) -> None:
        """Leave with an exit code from now on, in some seconds at the latest."""
        self._code = code
        threading.Thread(target=self._in_time, daemon=True).start()

    def _leave(self) -> None:
        if self._code is None:
            return
        logging.shutdown()  # registered before, so that it would come after
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):  # closed: the interpreter says what it always does
            return
        os._exit(self._code)

    def _in_time(self) -> None:
        """Name the threads for which the interpreter still waits, and leave."""
        time.sleep(_GRACE_S)
        main = threading.main_thread()
        names = sorted(
            {thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main}
        )
        if names:
            print(
                "ppokit: warning: ended although threads still run that a plugin has started: "
                f"{listed(names)}",
                file=sys.stderr,
            )
            self._leave()
