"""When a run's freed memory is given back, and that it is."""

from __future__ import annotations

import ctypes
import sys

import pytest

from ppokit.cli.allocator import HeapTrimmer, give_back, resident_bytes

MB = 2**20


def test_memory_is_given_back_once_it_has_grown_beyond_the_first_two_steps() -> None:
    """Step 2 shows 100: 110 is still kept, 111 is not; a run that grows on and on is stopped each time."""
    after = iter([80, 100, 105, 110, 111, 90, 200])
    given_back: list[int] = []
    now = [0]
    trimmer = HeapTrimmer(lambda: next(after), lambda: given_back.append(now[0]))
    for step in range(1, 8):
        now[0] = step
        trimmer.on_step()
    assert given_back == [5, 7]


def test_an_evaluation_begins_without_what_steps_left_behind() -> None:
    given_back: list[str] = []
    trimmer = HeapTrimmer(lambda: 100, lambda: given_back.append(phase))
    for phase in ("generate", "reward", "update", "evaluation"):
        trimmer.on_phase(phase)
    assert given_back == ["evaluation"]


def test_where_nobody_knows_the_memory_nothing_is_given_back() -> None:
    trimmer = HeapTrimmer(lambda: 0, lambda: pytest.fail("given back"))
    for _ in range(5):
        trimmer.on_step()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_blocks_leave_the_process() -> None:
    """Every second block is freed: holes in the heap, which only malloc_trim gives back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    size, count = 96 * 1024, 1000  # under any threshold for mapping
    blocks = [libc.malloc(ctypes.c_size_t(size)) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)
    before = resident_bytes()
    give_back()
    after = resident_bytes()
    for block in blocks[1::2]:
        libc.free(block)
    assert before - after > 30 * MB
