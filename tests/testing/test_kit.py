"""The conformance kit finds each seeded fault, names it, and passes what is right."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import wrong_plugins
from ppokit.errors import PluginError
from ppokit.plugin import Component
from ppokit.testing import Fault, Subject, checks_of, conformance, run_checks
from wrong_plugins import FAULTS, Counts, Groups, OneAtATime, Wrong, component


def subject_of(made: Component, kind: str = "rewards") -> Subject:
    label = f"in a test, {id(made)}"  # each its own, as what they change is remembered by it
    return Subject(kind, made.name, made, label, seconds=0.05 if kind == "rewards" else 1.0)


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """What the wrong plugins do to the process."""
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    with warnings.catch_warnings():
        yield
    wrong_plugins.STOP.set()
    wrong_plugins.STOP.clear()
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    for file in wrong_plugins.OPEN:
        if hasattr(file, "close"):
            file.close()
    wrong_plugins.OPEN.clear()


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 25
    assert len({wrong.name for wrong in FAULTS}) == len(FAULTS)


def test_what_is_done_once_is_found_though_another_check_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each check begins with the process as it was."""
    monkeypatch.setattr(wrong_plugins, "ONCE", set())
    (wrong,) = [one for one in FAULTS if one.name == "sets_threads_at_the_first_call"]
    before = torch.get_num_threads()
    report = run_checks(replace(subject_of(wrong.component), use="once"))
    assert [result.check for result in report.having("failed")] == ["leaves_threads_setting"]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", FAULTS, ids=lambda wrong: wrong.name)
def test_each_fault_is_named(wrong: Wrong) -> None:
    """By its check, in a sentence that names the component and says what is wrong or what to do."""
    (check,) = [one for one in checks_of(wrong.kind) if one.name == wrong.check]
    with pytest.raises(Fault, match=r"\w") as caught:
        check.run(subject_of(wrong.component, wrong.kind))
    message = str(caught.value)
    assert wrong.words in message
    assert f"{wrong.kind} 'wrong' (plugin in a test, " in message


def test_every_check_finds_something() -> None:
    kinds = ("rewards", "advantages", "losses", "rollout", "evaluators", "observers")
    assert {wrong.check for wrong in FAULTS} == {check.name for kind in kinds for check in checks_of(kind)}


@pytest.mark.parametrize("right", [Counts, OneAtATime, Groups])
def test_what_is_right_passes(right: type) -> None:
    examples = [] if right is Groups else wrong_plugins.EXAMPLES
    waivers = {"time": "another test looks at it", **({} if examples else {"names_examples": "compares"})}
    report = run_checks(subject_of(component(right, examples=examples, waivers=waivers)))
    assert [(result.check, result.detail) for result in report.having("failed")] == []
    assert {result.check: result.detail for result in report.having("waived")} == waivers


@pytest.mark.parametrize(
    ("waivers", "message"),
    [
        ({"tiem": "slow"}, "names no check of rewards; did you mean 'time'"),
        ({"time": " "}, "gives no reason"),
    ],
)
def test_a_waiver_names_a_check_and_gives_a_reason(waivers: dict[str, str], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        run_checks(subject_of(component(Counts, waivers=waivers)))


def test_one_line_gives_one_item_per_check() -> None:
    test = conformance(replace(component(Counts), waivers={"time": "slow"}), "rewards")
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    items = mark.args[1]
    assert [item.id for item in items] == [check.name for check in checks_of("rewards")]
    assert [item.id for item in items if item.marks] == ["time"]


def test_what_cannot_be_built_is_said_once() -> None:
    report = run_checks(subject_of(component(lambda options, context: 1 / 0)))
    assert [result.check for result in report.results] == ["builds"]
    assert "ZeroDivisionError" in report.results[0].detail


def test_importing_it_imports_no_torch() -> None:
    code = "import ppokit.testing, sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout == "[]\n"


def test_their_order_does_not_depend_on_what_was_imported_first() -> None:
    code = (
        "import ppokit.testing.example_checks; from ppokit.testing import checks_of; "
        "print(*(check.name for check in checks_of('rewards')))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.split() == [check.name for check in checks_of("rewards")]
