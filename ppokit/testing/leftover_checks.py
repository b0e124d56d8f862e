"""Checks that a component leaves nothing behind: threads, processes, open files, files on the disk."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from ppokit.testing.calls import RUN_FOLDER, arguments, close, exercise, raw, sample, tell
from ppokit.testing.checks import Fault, check
from ppokit.testing.process_state import change
from ppokit.testing.subject import Subject

_CALLS = 4


def _ends_its_threads(subject: Subject) -> None:
    if change(subject.where, "leaves_nothing_open"):
        raise Fault(
            "it leaves a thread running, for which the process would wait at its end; end it in close()"
        )


@check("leaves_nothing_open", about=_ends_its_threads)
def leaves_nothing_open(subject: Subject) -> None:
    """After close() no thread, process or open file is left, and calls do not gather them."""
    exercise(subject)  # what an import sets up once is not counted
    threads, files, children = set(threading.enumerate()), _open_files(), _children()
    objects = [exercise(subject), exercise(subject)]  # they live on: what they keep is still there
    left = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in left:
        thread.join(0.2)
    if alive := [thread for thread in left if thread.is_alive()]:
        raise Fault(f"it leaves the thread {alive[0].name!r} running; end it in close()")
    if _children() - children:
        raise Fault("it leaves a process running that it started; end it, and wait for it, in close()")
    if _open_files() > files + 1:
        gc.collect()  # of what is open and forgotten, Python closes what it collects
    if (count := _open_files() - files) > 1:
        raise Fault(f"it leaves {count} files or connections open; close them in close(), or use `with`")
    del objects
    _gathers_no_files(subject)


def _gathers_no_files(subject: Subject) -> None:
    """Also where close() would close them all: a run has thousands of calls."""
    built, rollout = subject.build(), sample(subject)

    def call() -> None:
        if subject.kind == "observers":
            tell(subject, built, rollout)
        else:
            raw(subject, built, arguments(subject, rollout))

    call()
    gc.collect()
    before = _open_files()
    for _ in range(_CALLS):
        call()
    gc.collect()
    count = _open_files() - before
    close(built)
    if count >= _CALLS:
        raise Fault(
            f"{_CALLS} calls leave {count} files or connections open until close(); open one for all calls, "
            "or close each by `with`"
        )


def _writes_nothing_here(subject: Subject) -> None:
    if (name := change(subject.where, "leaves_no_files")) and subject.kind != "observers":
        raise Fault(
            f"it writes {name!r} into the working directory, where others' files are; write below "
            "context.folder, the run's, or where an option says"
        )


@check("leaves_no_files", about=_writes_nothing_here)
def leaves_no_files(subject: Subject) -> None:
    """Neither the working directory nor the folder of temporary files has new files afterwards."""
    variable, default = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            exercise(subject)
            left = sorted(path.name for path in Path(folder).iterdir() if path.name != RUN_FOLDER)
        finally:
            tempfile.tempdir = default
            os.environ.pop("TMPDIR")
            if variable is not None:
                os.environ["TMPDIR"] = variable
    if left:
        raise Fault(
            f"it leaves the temporary file {left[0]!r}; remove it in close(), or use tempfile by `with`"
        )


def _open_files() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _children() -> set[str]:
    """Ids of the processes that this one has started; of those that ended and were not waited for, too."""
    children: set[str] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            children.update(file.read_text().split())
    return children
