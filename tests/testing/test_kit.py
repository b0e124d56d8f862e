"""The conformance kit finds each seeded fault, names it, and passes what is right."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import Field

import wrong_plugins
from ppokit.errors import PluginError
from ppokit.plugin import Component, Example, Options, RewardOutput, Rollout, hookimpl
from ppokit.plugin.hookspecs import Events
from ppokit.testing import Fault, Subject, checks_of, conformance, find, run_checks
from ppokit.testing.example_checks import scored
from ppokit.testing.targets import kind_of
from ppokit.testing.time_limit import paused, time_limit
from wrong_plugins import FAULTS, Counts, Groups, OneAtATime, Wrong, component

NUMBERS = itertools.count()


def subject_of(made: Component, kind: str = "rewards", *, seconds: float = 1.0) -> Subject:
    label = f"in a test, {next(NUMBERS)}"  # each its own, as what they change is remembered by it
    return Subject(kind, made.name, made, label, seconds=seconds)


@pytest.fixture(autouse=True)
def put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the wrong plugins do to the process; what they write is not where others stand."""
    monkeypatch.chdir(tmp_path)
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    with warnings.catch_warnings():
        yield
    wrong_plugins.STOP.set()
    wrong_plugins.STOP.clear()
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    for left in wrong_plugins.OPEN:
        if isinstance(left, subprocess.Popen):
            left.kill()
            left.wait()
        elif hasattr(left, "close"):
            left.close()
    wrong_plugins.OPEN.clear()


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 25
    assert len({wrong.name for wrong in FAULTS}) == len(FAULTS)


def test_what_is_done_once_is_found_though_another_check_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each check begins with the process as it was."""
    monkeypatch.setattr(wrong_plugins, "ONCE", set())
    (wrong,) = [one for one in FAULTS if one.name == "sets_threads_at_the_first_call"]
    before = torch.get_num_threads()
    component = replace(wrong.component, waivers={"second_process": "it stands in no module"})
    report = run_checks(subject_of(component))
    assert [result.check for result in report.having("failed")] == ["leaves_threads_setting"]
    assert torch.get_num_threads() == before


# Some leave files to the garbage collector, as they would in a run.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("wrong", FAULTS, ids=lambda wrong: wrong.name)
def test_each_fault_is_named(wrong: Wrong) -> None:
    """By its check, in a sentence that names the component and says what is wrong or what to do."""
    (check,) = [one for one in checks_of(wrong.kind) if one.name == wrong.check]
    timed = wrong.check in ("time", "long_responses") or wrong.name == "never_returns"
    with pytest.raises(Fault, match=r"\w") as caught:
        check.run(subject_of(wrong.component, wrong.kind, seconds=0.05 if timed else 1.0))
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


def test_what_does_not_return_is_tried_no_further() -> None:
    (wrong,) = [one for one in FAULTS if one.name == "never_returns"]
    subject = subject_of(wrong.component, seconds=0.1)
    report = run_checks(subject)
    (failed,) = report.having("failed")
    assert report.results[-1] is failed
    assert "it did not return within 3 s" in failed.detail
    (check,) = [one for one in checks_of("rewards") if one.name == "order"]
    with pytest.raises(Fault, match=f"not tried, as it did not return in the check {failed.check}"):
        check.run(subject)


def test_what_is_not_the_components_own_is_not_counted() -> None:
    with time_limit(60):
        with paused():
            assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left <= 60
        assert interval == 1
    with paused():
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


class Weighs:
    def advantage_weights(self, inputs: object) -> None: ...


class Watches:
    def on_step(self) -> None: ...


def guesses(rollout: object) -> None: ...


@pytest.mark.parametrize(
    ("thing", "kind"),
    [(OneAtATime, "rewards"), (Groups, "rewards"), (Weighs, "losses"), (Watches, "observers")],
)
def test_a_class_tells_its_kind(thing: type, kind: str) -> None:
    assert kind_of(thing, "here:thing") == kind


def test_what_does_not_tell_its_kind_is_asked_for_it() -> None:
    with pytest.raises(PluginError, match="'here:guesses' does not tell its kind; give --kind"):
        kind_of(guesses, "here:guesses")


AT_IMPORT = """
import os, threading, torch

torch.set_default_dtype(torch.float64)
torch.nn.functional.silu = lambda x, inplace=False: x
os.environ["SET_BY_A_WRONG_PLUGIN"] = "1"
os.chdir("/")

def brief(responses):
    return [1.0 / (1 + len(text)) for text in responses]
"""


def test_what_is_changed_by_an_import_is_a_fault_and_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong_at_import.py").write_text(AT_IMPORT)
    monkeypatch.syspath_prepend(str(tmp_path))
    silu, here = torch.nn.functional.silu, Path.cwd()
    (subject,) = find("wrong_at_import:brief", "rewards")
    assert (torch.nn.functional.silu, torch.get_default_dtype()) == (silu, torch.float32)
    assert Path.cwd() == here
    faults = {result.check: result.detail for result in run_checks(subject).having("failed")}
    assert faults.pop("names_examples")
    # The second process imports it too.
    assert set(faults) - {"second_process"} == {
        "leaves_torch_settings",
        "leaves_functions",
        "leaves_environment",
        "leaves_working_directory",
    }
    assert "changes the default dtype of torch for the whole process" in faults["leaves_torch_settings"]


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


def test_the_phases_are_those_of_a_run() -> None:
    """As the event's documentation lists them."""
    phases: list[str] = []

    class Hears:
        @hookimpl
        def on_phase(self, phase: str) -> None:
            phases.append(phase)

    (check,) = [one for one in checks_of("observers") if one.name == "one_response"]
    check.run(subject_of(Component("hears", lambda options, context: Hears()), "observers"))
    known = re.findall(r"\w+", (Events.on_phase.__doc__ or "").partition(": ")[2])
    assert phases
    assert set(phases) <= set(known)


def test_examples_take_options_by_their_aliases() -> None:
    class Aliased(Options):
        limit: int = Field(3, alias="most")

        def score(self, rollout: Rollout) -> RewardOutput:
            return RewardOutput.from_values([-abs(len(text) - self.limit) for text in rollout.responses])

    subject = subject_of(Component("aliased", options=Aliased))
    example = Example(("abcd",), ("abcdefg",))
    result = scored(subject, example, Aliased.model_validate({"most": 4}))
    assert (result.better, result.worse, result.nothing) == ([0.0], [-3.0], -4.0)
