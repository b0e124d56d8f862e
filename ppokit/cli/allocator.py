"""The allocator of a command that computes on a CPU; a library changes no process-wide settings."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what tensors leave behind for the next ones.

    It would give large blocks back to the kernel, which clears each page again at the next step; where
    a virtual machine's host takes free pages away, that alone can take longer than the step. Elsewhere
    than on Linux with glibc, nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 * 2**20)
