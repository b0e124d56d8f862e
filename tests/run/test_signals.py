"""Signals: at once, held until the state is whole, and a second that does not wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from ppokit.errors import Interrupted
from ppokit.run.signals import Signals


class Others:
    """So many processes; the signals that the others have noted."""

    def __init__(self, count: int = 1, noted: list[int] | None = None) -> None:
        self.count = count
        self.noted = noted or []

    def gather(self, items: list[int]) -> list[int]:
        return [*items, *self.noted]


def signals_of(count: int = 1, noted: list[int] | None = None) -> Signals:
    others: Any = Others(count, noted)
    return Signals(others)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_raised_at_once(number: int) -> None:
    signals = signals_of()
    with pytest.raises(Interrupted) as caught, signals.caught():  # noqa: PT012
        send(number)
        pytest.fail("went on")
    assert (caught.value.signum, caught.value.exit_code) == (number, 128 + number)
    assert not isinstance(caught.value, Exception)


def test_the_handlers_before_come_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with signals_of().caught():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    with pytest.raises(RuntimeError), signals_of().caught():
        raise RuntimeError
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_held_lets_what_is_inside_finish() -> None:
    signals, events = signals_of(), []
    with pytest.raises(Interrupted), signals.caught():  # noqa: PT012
        with signals.deferred():
            with signals.deferred():
                send(signal.SIGTERM)
                events.append("inner")
            events.append("outer")
        signals.check()
        events.append("never")
    assert events == ["inner", "outer"]


def test_a_second_signal_does_not_wait() -> None:
    signals, events = signals_of(), []
    with pytest.raises(Interrupted) as caught, signals.caught(), signals.deferred():  # noqa: PT012
        send(signal.SIGTERM)
        events.append("first")
        send(signal.SIGINT)
        events.append("never")
    assert events == ["first"]
    assert caught.value.signum == signal.SIGINT


@pytest.mark.parametrize("count", [1, 2])
def test_on_the_way_out_no_more_are_heard(count: int) -> None:
    """The last step is being saved then; another run hears them again."""
    signals, events = signals_of(count), []
    for _ in range(2):
        with pytest.raises(Interrupted), signals.caught():  # noqa: PT012
            try:
                send(signal.SIGTERM)
                signals.check()
            finally:
                send(signal.SIGTERM)
                send(signal.SIGINT)
                events.append("saved")
    assert events == ["saved", "saved"]


def test_after_the_hold_a_signal_raises_at_once_again() -> None:
    signals = signals_of()
    with pytest.raises(Interrupted), signals.caught():  # noqa: PT012
        with signals.deferred():
            pass
        send(signal.SIGINT)
        pytest.fail("went on")


def test_several_processes_leave_together() -> None:
    signals, events = signals_of(count=2), []
    with pytest.raises(Interrupted) as caught, signals.caught():  # noqa: PT012
        send(signal.SIGTERM)
        events.append("went on")
        signals.check()
    assert events == ["went on"]
    assert caught.value.signum == signal.SIGTERM
    with pytest.raises(Interrupted) as caught:
        signals_of(count=2, noted=[0, signal.SIGINT]).check()
    assert caught.value.signum == signal.SIGINT


def test_without_a_signal_nothing_happens() -> None:
    signals_of(count=2, noted=[0]).check()


def test_outside_the_main_thread_nothing_is_changed() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with signals_of().caught():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


STUCK = """
import re, sys, threading
from ppokit.run.signals import Signals


class Alone:
    count = 1


def never_ends():  # in C, with the interpreter's lock, where no handler in Python can run
    re.match("(a+)+$", "a" * 60 + "b")


with Signals(Alone()).caught():
    print("begun", flush=True)
    thread = threading.Thread(target=never_ends, daemon=True)
    thread.start()
    thread.join()
"""


def test_a_second_signal_ends_a_process_in_which_python_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # at once, as by a launcher: still one
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()


def test_signals_that_python_answers_leave_the_process_alone() -> None:
    """Also long after: the pause between the two is not counted against it."""
    signals, events = signals_of(), []
    with pytest.raises(Interrupted), signals.caught(), signals.deferred():  # noqa: PT012
        send(signal.SIGTERM)
        time.sleep(4)
        events.append("deferred")
        send(signal.SIGTERM)
    assert events == ["deferred"]


def test_a_signal_long_after_the_way_out_began_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where saving never ends."""
    ended: list[int] = []
    monkeypatch.setattr("ppokit.run.signals._SAVING_S", 0.0)
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    signals = signals_of()
    with pytest.raises(Interrupted), signals.caught():  # noqa: PT012
        try:
            send(signal.SIGTERM)
        finally:
            with signals.saving():
                send(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert ended == [signal.SIGINT]


DEAF = """
import time
from ppokit.run.signals import Signals


class Alone:
    count = 1


with Signals(Alone()).caught():
    words = ["begun"]
    while True:
        try:
            if words:  # within, or a signal that comes at once would be caught by nothing
                print(words.pop(), flush=True)
            time.sleep(600)
        except BaseException as error:
            print(type(error).__name__, flush=True)
"""


def test_a_third_signal_ends_a_process_in_which_a_plugin_catches_everything() -> None:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)  # as by a launcher: still one
            time.sleep(1)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == -signal.SIGINT
        assert process.stdout.read() == "Interrupted\n" * 2
    finally:
        process.kill()
        process.communicate()
