"""What of the process a component must leave alone: read before each check, compared and put back after it.

What a component does at its first call alone, or when it is imported, shows in whichever check comes first,
and is remembered for the check that is about it.
"""

from __future__ import annotations

import gc
import locale
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ppokit.testing.patches import changed_functions, functions


@dataclass(frozen=True)
class Setting:
    """One thing that holds for the whole process.

    Attributes:
        name: as a report says it.
        check: the check that is about it.
    """

    name: str
    check: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
_TORCH = "leaves_torch_settings"
_PYTHON = "leaves_interpreter"


def _put_signals(handlers: tuple[Any, ...]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        with suppress(TypeError, ValueError):  # set by C, or not on the main thread
            signal.signal(number, handler)


def _put_logging(state: tuple[int, int, list[logging.Handler]]) -> None:
    level, disabled, handlers = state
    logging.root.setLevel(level)
    logging.disable(disabled)
    logging.root.handlers[:] = handlers


def _put_streams(streams: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr, sys.excepthook = streams


_SETTINGS = (
    Setting("the working directory", "leaves_working_directory", Path.cwd, os.chdir),
    Setting(
        "a signal handler",
        "leaves_signals",
        lambda: tuple(signal.getsignal(number) for number in _SIGNALS),
        _put_signals,
    ),
    Setting("the recursion limit", _PYTHON, sys.getrecursionlimit, sys.setrecursionlimit),
    Setting(
        "the standard streams",
        _PYTHON,
        lambda: (sys.stdin, sys.stdout, sys.stderr, sys.excepthook),
        _put_streams,
    ),
    Setting(
        "the root logger",
        _PYTHON,
        lambda: (logging.root.level, logging.root.manager.disable, list(logging.root.handlers)),
        _put_logging,
    ),
    Setting("the garbage collector", _PYTHON, gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    Setting("the time-out of sockets", _PYTHON, socket.getdefaulttimeout, socket.setdefaulttimeout),
    Setting(
        "the locale",
        _PYTHON,
        lambda: locale.setlocale(locale.LC_ALL),
        lambda name: locale.setlocale(locale.LC_ALL, name),
    ),
)


def _torch_settings() -> tuple[Setting, ...]:
    """Where it has been imported."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return ()
    return (
        Setting("torch's threads", "leaves_threads_setting", torch.get_num_threads, torch.set_num_threads),
        Setting("the default dtype of torch", _TORCH, torch.get_default_dtype, torch.set_default_dtype),
        Setting(
            "the default device of torch",
            _TORCH,
            torch.get_default_device,
            lambda device: torch.set_default_device(None if str(device) == "cpu" else device),
        ),
        Setting(
            "torch's precision of matrix products",
            _TORCH,
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        Setting(
            "whether torch takes deterministic algorithms",
            _TORCH,
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
        Setting(
            "whether torch looks for anomalies",
            _TORCH,
            torch.is_anomaly_enabled,
            torch.autograd.set_detect_anomaly,
        ),
        Setting(
            "whether torch computes gradients",
            "leaves_gradients",
            torch.is_grad_enabled,
            torch.set_grad_enabled,
        ),
    )


_seen: defaultdict[str, dict[str, str]] = defaultdict(dict)


def _files() -> set[str]:
    """What is in the working directory, but for hidden files and Python's own."""
    with suppress(OSError):
        return {name for name in os.listdir() if not name.startswith((".", "__pycache__"))}  # noqa: PTH208
    return set()


def import_what_runs_do() -> None:
    """What a run has imported before any plugin: it changes some of what is watched."""
    import_module("transformers.modeling_utils")


@contextmanager
def watched(wheres: list[str]) -> Iterator[None]:
    """Remember what changes within, and put it back.

    Args:
        wheres: how errors name the components; it may be filled within.
    """
    settings = (*_SETTINGS, *_torch_settings())
    before = [setting.get() for setting in settings]
    environment, filters, known, files = dict(os.environ), list(warnings.filters), functions(), _files()
    threads = set(threading.enumerate())
    changes: dict[str, str] = {}
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            if setting.get() != value:
                changes.setdefault(setting.check, setting.name)
                setting.put(value)
        for name in sorted({*environment, *os.environ}):
            if environment.get(name) != os.environ.get(name):
                changes.setdefault("leaves_environment", f"the environment variable {name}")
        os.environ.clear()
        os.environ.update(environment)
        warnings.filters[:] = filters  # type: ignore[index]
        if patched := changed_functions(known):
            changes["leaves_functions"] = patched[0]
        if written := sorted(_files() - files):
            changes["leaves_no_files"] = written[0]
        if any(t.is_alive() and not t.daemon for t in set(threading.enumerate()) - threads):
            changes["leaves_nothing_open"] = "a thread"
        for where in wheres:
            for check, what in changes.items():
                _seen[where].setdefault(check, what)


def change(where: str, check: str) -> str:
    """What a component has changed so far that a check is about; empty where nothing."""
    return _seen[where].get(check, "")
