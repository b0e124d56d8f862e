"""What is being tried, for whoever outlives this process: code of a plugin may end it.

Only `ppokit plugins check` has somebody who does, see `ppokit.cli.supervised`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

watcher: int | None = None
"""File that is read once this process has ended; None where nobody reads it."""


@contextmanager
def trying(what: str) -> Iterator[None]:
    """Say what is tried, until it has returned or raised an exception."""
    _write(what)
    try:
        yield
    except Exception:
        _write("")
        raise
    _write("")


def _write(what: str) -> None:
    if watcher is not None:
        os.ftruncate(watcher, 0)
        os.pwrite(watcher, what.encode(errors="replace"), 0)
