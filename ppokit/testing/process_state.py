"""What of the process a component must leave alone: read before each check, compared and put back after it.

What a component does at its first call alone shows in whichever check comes first, and is remembered for the
check that is about it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
_seen: defaultdict[str, set[str]] = defaultdict(set)


def read() -> dict[str, Any]:
    """Settings by name; torch's where it has been imported."""
    state: dict[str, Any] = {
        "the working directory": Path.cwd(),
        "a signal handler": tuple(signal.getsignal(number) for number in _SIGNALS),
        "the warnings filters": list(warnings.filters),
        "environment": dict(os.environ),
    }
    if torch := sys.modules.get("torch"):
        state["torch's threads"] = torch.get_num_threads()
        state["the default dtype of torch"] = torch.get_default_dtype()
        state["the default device of torch"] = torch.get_default_device()
        state["whether torch computes gradients"] = torch.is_grad_enabled()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put the settings back."""
    os.chdir(state["the working directory"])
    for number, handler in zip(_SIGNALS, state["a signal handler"], strict=True):
        with suppress(TypeError, ValueError):  # set by C, or not on the main thread
            signal.signal(number, handler)
    warnings.filters[:] = state["the warnings filters"]  # type: ignore[index]
    os.environ.clear()
    os.environ.update(state["environment"])
    if "torch's threads" in state:
        import torch

        torch.set_num_threads(state["torch's threads"])
        torch.set_default_dtype(state["the default dtype of torch"])
        device = state["the default device of torch"]
        torch.set_default_device(None if str(device) == "cpu" else device)
        torch.set_grad_enabled(state["whether torch computes gradients"])


@contextmanager
def watched(where: str) -> Iterator[None]:
    """Remember which settings change within, and put them back.

    Args:
        where: how errors name the component.
    """
    before, threads = read(), set(threading.enumerate())
    try:
        yield
    finally:
        after = read()
        variables = {*before["environment"], *after["environment"]}
        for name in variables:
            if before["environment"].get(name) != after["environment"].get(name):
                _seen[where].add(f"the environment variable {name}")
        for name in set(before) - {
            "environment",
            "the warnings filters",
        }:  # libraries add filters when imported
            if before[name] != after[name]:
                _seen[where].add(name)
        if any(t.is_alive() and not t.daemon for t in set(threading.enumerate()) - threads):
            _seen[where].add("a thread")
        restore(before)


def changes(where: str) -> set[str]:
    """What a component has changed so far."""
    return _seen[where]
