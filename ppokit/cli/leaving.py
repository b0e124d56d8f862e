"""The end of a process is not kept waiting by threads that a plugin has left behind."""

from __future__ import annotations

import os
import sys
import threading
import time

from ppokit.messages import listed

_GRACE_S = 5.0


def leave_in_time(code: int) -> None:
    """End this process with an exit code in some seconds, if it has not ended by itself.

    The interpreter waits for threads that are no daemons; those that still run are named.
    """
    threading.Thread(target=_end, args=(code,), daemon=True).start()


def _end(code: int) -> None:
    time.sleep(_GRACE_S)
    main = threading.main_thread()
    names = sorted(
        {thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main}
    )
    if names:
        print(
            f"ppokit: warning: ended although threads still run that a plugin has started: {listed(names)}",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
