"""The allocator of a command that computes on a CPU; a library changes no process-wide settings."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ppokit.plugin import hookimpl

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what tensors leave behind for the next ones.

    It would give large blocks back to the kernel, which clears each page again at the next step; where
    a virtual machine's host takes free pages away, that alone can take longer than the step. Elsewhere
    than on Linux with glibc, nothing is done.
    """
    mallopt = _libc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 * 2**20)


def resident_bytes() -> int:
    """Bytes of this process in memory; 0 elsewhere than on Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Give the kernel all pages without a block in use; elsewhere than on Linux with glibc, nothing."""
    malloc_trim = _libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


class HeapTrimmer:
    """An observer that gives freed memory back when it has piled up, so that a run's memory does not grow.

    Blocks of each step's own sizes leave holes that the next step's do not fit. The first two steps show what
    a step needs; memory is given back after a step that ends with `GROWTH` times as much, since each time
    costs the next step its page faults. Each part of an evaluation has blocks of sizes of its own, and begins
    without what was there before.

    Args:
        resident: bytes of the process in memory; 0 where nobody knows.
        trim: gives freed memory back.
    """

    GROWTH = 1.1

    def __init__(
        self, resident: Callable[[], int] = resident_bytes, trim: Callable[[], None] = give_back
    ) -> None:
        self._resident, self._trim = resident, trim
        self._steps = self._needed = 0

    @hookimpl
    def on_phase(self, phase: str) -> None:
        if phase == "evaluation":
            self._trim()

    @hookimpl
    def on_step(self) -> None:
        resident = self._resident()
        self._steps += 1
        if self._steps <= 2:
            self._needed = max(self._needed, resident)
        elif resident > self.GROWTH * self._needed:
            self._trim()


def _libc(name: str) -> Callable[..., int] | None:
    function: Callable[..., int] | None = None
    if sys.platform.startswith("linux"):
        function = getattr(ctypes.CDLL(None), name, None)
    return function
