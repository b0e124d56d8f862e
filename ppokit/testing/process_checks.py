"""Checks that a component leaves the process as it was: all components and the core share it."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ppokit.testing.calls import exercise
from ppokit.testing.checks import Fault, check
from ppokit.testing.subject import Subject


def _unchanged(
    subject: Subject, read: Callable[[], Any], restore: Callable[[Any], Any], what: str, advice: str
) -> None:
    """Build, call and close, and compare something of the process before and after."""
    exercise(subject)  # what an import or a first call sets up once is not counted
    before = read()
    try:
        exercise(subject)
        after = read()
    finally:
        restore(before)
    if before != after:
        raise Fault(f"it changes {what}; {advice}")


@check("leaves_random_state")
def leaves_random_state(subject: Subject) -> None:
    """Python's, NumPy's and torch's random numbers go on as if it had not been called."""
    import numpy as np
    import torch

    def read() -> dict[str, str]:
        return {
            "Python's": repr(random.getstate()),
            "NumPy's": repr(np.random.get_state()),
            "torch's": repr(torch.get_rng_state().tolist()),
        }

    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    before = read()
    try:
        exercise(subject)
        after = read()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    if changed := [name for name in before if before[name] != after[name]]:
        raise Fault(
            f"it draws from, or seeds, {changed[0]} global random numbers, by which responses are "
            "sampled; use "
            "a generator of its own, seeded by context.seed"
        )


@check("leaves_torch_settings")
def leaves_torch_settings(subject: Subject) -> None:
    """The default dtype, the default device and whether gradients are on stay as they were."""
    import torch

    def restore(before: tuple[Any, ...]) -> None:
        torch.set_default_dtype(before[0])
        torch.set_default_device(None if str(before[1]) == "cpu" else before[1])
        torch.set_grad_enabled(before[2])

    def read() -> tuple[Any, ...]:
        return torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()

    before = read()
    try:
        exercise(subject)
        after = read()
    finally:
        restore(before)
    names = ("the default dtype", "the default device", "whether gradients are computed")
    if changed := [name for name, a, b in zip(names, before, after, strict=True) if a != b]:
        raise Fault(f"it changes {changed[0]} of torch for the whole process; pass it where it is needed")


@check("leaves_threads_setting")
def leaves_threads_setting(subject: Subject) -> None:
    """torch's number of threads stays as it was."""
    import torch

    before = torch.get_num_threads()
    try:
        exercise(subject)
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    if before != after:
        raise Fault(f"it sets torch's threads from {before} to {after} for the whole process; leave them")


@check("leaves_working_directory")
def leaves_working_directory(subject: Subject) -> None:
    """The working directory stays: recipes name files by it."""
    before = Path.cwd()
    try:
        exercise(subject)
        after = Path.cwd()
    finally:
        os.chdir(before)
    if before != after:
        raise Fault(f"it changes the working directory to {after}; name files by their whole paths")


@check("leaves_environment")
def leaves_environment(subject: Subject) -> None:
    """Environment variables stay as they were."""
    before = dict(os.environ)
    try:
        exercise(subject)
        after = dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)
    if changed := sorted(key for key in {*before, *after} if before.get(key) != after.get(key)):
        raise Fault(f"it changes the environment variable {changed[0]}; pass what you need as an argument")


@check("leaves_warning_filters")
def leaves_warning_filters(subject: Subject) -> None:
    """Which warnings are shown stays as it was."""
    with warnings.catch_warnings():
        before = [str(entry) for entry in warnings.filters]
        exercise(subject)
        after = [str(entry) for entry in warnings.filters]
    if before != after:
        raise Fault(
            "it changes the warnings filters, which hides others' warnings; use "
            "warnings.catch_warnings() around "
            "the call that warns"
        )


@check("leaves_signals")
def leaves_signals(subject: Subject) -> None:
    """Signal handlers stay: by SIGINT and SIGTERM a run saves itself."""
    handlers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

    def restore(before: tuple[Any, ...]) -> None:
        for number, handler in zip(handlers, before, strict=True):
            with suppress(TypeError, ValueError):
                signal.signal(number, handler)

    _unchanged(
        subject,
        lambda: tuple(signal.getsignal(number) for number in handlers),
        restore,
        "a signal handler",
        "a run saves itself by them: leave SIGINT, SIGTERM and SIGALRM alone",
    )


@check("leaves_nothing_open")
def leaves_nothing_open(subject: Subject) -> None:
    """After close() no thread and no open file is left."""
    exercise(subject)  # what an import sets up once is not counted
    threads, files = set(threading.enumerate()), _open_files()
    exercise(subject)
    exercise(subject)
    left = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in left:
        thread.join(0.2)
    if alive := [thread for thread in left if thread.is_alive()]:
        raise Fault(f"it leaves the thread {alive[0].name!r} running; end it in close()")
    if _open_files() > files + 1:
        gc.collect()  # of what is open and forgotten, Python closes what it collects
    if (count := _open_files() - files) > 1:
        raise Fault(f"it leaves {count} files or connections open; close them in close(), or use `with`")


def _open_files() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
