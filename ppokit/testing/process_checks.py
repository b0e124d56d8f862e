"""Checks that a component leaves the settings of the process as they were: all components share it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

from ppokit.testing.calls import exercise
from ppokit.testing.checks import Fault, check
from ppokit.testing.process_state import change
from ppokit.testing.subject import Subject


def _leaves(name: str, advice: str) -> Callable[[Subject], None]:
    """Raise where a component has changed something, in any check so far or when it was imported."""

    def about(subject: Subject) -> None:
        if what := change(subject.where, name):
            raise Fault(f"it changes {what} for the whole process; {advice}")

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


def _setting(name: str, what: str, advice: str) -> None:
    """A check of one kind of setting, which every check watches."""

    def test(subject: Subject) -> None:
        exercise(subject)

    test.__doc__ = what
    test.__module__ = __name__
    check(name, about=_leaves(name, advice))(test)


_setting(
    "leaves_torch_settings",
    "torch's default dtype and device, precision and deterministic algorithms stay as they were.",
    "pass it where it is needed",
)
_setting(
    "leaves_gradients",
    "Whether torch computes gradients stays as it was.",
    "use torch.no_grad() around what needs it",
)
_setting("leaves_threads_setting", "torch's number of threads stays as it was.", "leave them")
_setting(
    "leaves_functions",
    "Functions of Python, torch, transformers and ppokit stay: none is patched.",
    "call a function of its own instead: everything else calls this one too",
)
_setting(
    "leaves_working_directory",
    "The working directory stays: recipes name files by it.",
    "name files by their whole paths",
)
_setting(
    "leaves_environment",
    "Environment variables stay as they were.",
    "pass what you need as an argument",
)
_setting(
    "leaves_interpreter",
    "Python's streams, root logger, recursion limit, locale and such stay as they were.",
    "leave it to the program: use logging.getLogger(__name__), and arguments in place of settings",
)
_setting(
    "leaves_signals",
    "Signal handlers stay: by SIGINT and SIGTERM a run saves itself.",
    "leave SIGINT, SIGTERM and SIGALRM alone: by them a run saves itself",
)


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
