"""Checks that a component leaves the process as it was: all components and the core share it."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable

from ppokit.testing.calls import exercise
from ppokit.testing.checks import Fault, check
from ppokit.testing.process_state import changes
from ppokit.testing.subject import Subject


def _leaves(begins: str, advice: str) -> Callable[[Subject], None]:
    """Raise where a component has changed a setting, in this check or in one before."""

    def about(subject: Subject) -> None:
        if changed := sorted(name for name in changes(subject.where) if name.startswith(begins)):
            raise Fault(f"it changes {changed[0]} for the whole process; {advice}")

    return about


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
    # By a seed that nobody has: a component that seeds them has perhaps done so before.
    random.seed(918273645)
    np.random.seed(918273645)
    torch.manual_seed(918273645)
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
            "sampled; use a generator of its own, seeded by context.seed"
        )


@check(
    "leaves_torch_settings",
    about=_leaves("the default d", "pass it where it is needed"),
)
def leaves_torch_settings(subject: Subject) -> None:
    """The default dtype and the default device stay as they were."""
    exercise(subject)


@check("leaves_gradients", about=_leaves("whether torch", "use torch.no_grad() around what needs it"))
def leaves_gradients(subject: Subject) -> None:
    """Whether torch computes gradients stays as it was."""
    exercise(subject)


@check("leaves_threads_setting", about=_leaves("torch's threads", "leave them"))
def leaves_threads_setting(subject: Subject) -> None:
    """torch's number of threads stays as it was."""
    exercise(subject)


@check("leaves_working_directory", about=_leaves("the working", "name files by their whole paths"))
def leaves_working_directory(subject: Subject) -> None:
    """The working directory stays: recipes name files by it."""
    exercise(subject)


@check("leaves_environment", about=_leaves("the environment", "pass what you need as an argument"))
def leaves_environment(subject: Subject) -> None:
    """Environment variables stay as they were."""
    exercise(subject)


@check("leaves_warning_filters")
def leaves_warning_filters(subject: Subject) -> None:
    """Which warnings are shown stays as it was."""
    exercise(subject)  # what a library adds when it is imported is not counted
    before = list(warnings.filters)
    exercise(subject)
    if list(warnings.filters) != before:
        raise Fault(
            "it changes the warnings filters, which hides others' warnings; use warnings.catch_warnings() "
            "around the call that warns"
        )


@check(
    "leaves_signals",
    about=_leaves("a signal", "leave SIGINT, SIGTERM and SIGALRM alone: by them a run saves itself"),
)
def leaves_signals(subject: Subject) -> None:
    """Signal handlers stay: by SIGINT and SIGTERM a run saves itself."""
    exercise(subject)


def _ends_its_threads(subject: Subject) -> None:
    if "a thread" in changes(subject.where):
        raise Fault(
            "it leaves a thread running, for which the process would wait at its end; end it in close()"
        )


@check("leaves_nothing_open", about=_ends_its_threads)
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
