"""Providers with a timeout: in a process of their own, ended in time, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components import built
from fake_plugins import distribution
from ppokit.config.components import SelectedComponent
from ppokit.config.registry import PluginRegistry
from ppokit.config.reward_settings import RewardSettings
from ppokit.errors import PluginError, PpokitError, RewardError
from ppokit.plugin.protocols import BuildContext
from ppokit.plugin.scoring import RewardContext
from ppokit.plugin.types import Rollout
from ppokit.rewards.scorer import Scorer
from ppokit.rewards.timed_worker import StatefulWorkerProvider, WorkerProvider, in_worker
from ppokit.run.component_builder import ComponentBuilder
from ppokit.run.components import RunComponent
from ppokit.run.events import EventHooks
from rollouts import make_rollout, single_process

SOURCE = """
import os, re, sys, time
from pathlib import Path
from ppokit.errors import RecipeError
from ppokit.plugin import Component, ModelError, Options, PluginError, RewardOutput, Scored, hookimpl

class Unsendable(Exception):
    def __reduce__(self):
        raise TypeError("no")

def no_use(what):
    with open("asked", "a") as file:
        file.write(f"{what} ")
    error = OSError("no such key")
    error.retryable = False
    return error

class O(Options):
    build: str = "well"

class R:
    def __init__(self, options, context):
        Path("pid").write_text(str(os.getpid()))
        if options.build == "no model":
            raise ModelError("there is no such model")
        if options.build == "own class":
            raise TwoParts("the table", "is empty")
        if options.build == "recipe":
            raise RecipeError([])
        if options.build == "leaves":
            sys.exit(0)

    def score(self, rollout):
        do = rollout.prompts[0]
        Path("called").touch()
        if do == "backtrack":
            re.match(r"(a+)+$", "a" * 64 + "b")
        if do == "sleep":
            time.sleep(600)
        if do == "raise":
            raise KeyError("x")
        if do == "die":
            os._exit(7)
        if do == "leave":
            sys.exit(0)
        if do == "no use":
            return RewardOutput.from_values([1.0, no_use(len(rollout)), OSError("busy")][-len(rollout):])
        if do == "break":
            raise PluginError("column answer is empty")
        return RewardOutput.from_values([float(len(text)) for text in rollout.responses])

class Counts(R):
    calls = 0
    def score(self, rollout):
        self.calls += 1
        super().score(rollout)
        return RewardOutput.from_values([float(self.calls)] * len(rollout))
    def state_dict(self):
        return {"calls": self.calls}
    def load_state_dict(self, state):
        self.calls = state["calls"]

class Hears(R):
    heard = ()
    @hookimpl
    def on_run_start(self, steps, recipe):
        self.heard = (*self.heard, f"start of {steps} for {recipe['run']['out']}")
    @hookimpl
    def on_step(self, step, metrics, rewards):
        if metrics["reward/mean"] < 0:
            raise KeyError("below 0")
        if metrics["reward/mean"] == 7:
            metrics["mine"] = 1.0
        if metrics["reward/mean"] > 9:
            time.sleep(600)
        self.heard = (*self.heard, f"{step}: {metrics['reward/mean']}, {rewards}")
    def state_dict(self):
        return {"heard": self.heard}
    def load_state_dict(self, state):
        self.heard = tuple(state["heard"])
    def close(self):
        Path("closed").write_text("; ".join(self.heard))

class Two(O):
    responses_per_call = 2
    def score(self, rollout):
        return RewardOutput.from_values([float(len(rollout))] * len(rollout))

class Each:
    def __init__(self, options, context):
        Path("pid").write_text(str(os.getpid()))

    async def score_one(self, sample, context):
        if sample.id == "sample-1" and sample.prompt == "backtrack":
            re.match(r"(a+)+$", "a" * 64 + "b")
        if sample.prompt == "parts":
            return Scored(1.0, parts={"safe": Unsendable("x") if sample.id == "sample-1" else 2.0})
        if sample.prompt == "noted":
            return Scored(Unsendable("x"), parts={"safe": 0.5}, notes={"why": "no"})
        if sample.id == "sample-2":
            raise KeyError("x")
        if sample.prompt == "no use":
            Path("tokenizer").write_text(str(context.tokenizer))
            raise no_use("sample")
        return float(context.step)

    async def close(self):
        Path("closed").touch()

class Meets:
    def __init__(self, options, context):
        with open("built", "a") as file:
            file.write("once ")
        self.events = 0

    def score_one(self, sample):
        Path(f"here-{sample.id}").touch()
        deadline = time.monotonic() + 30
        while len(list(Path().glob("here-*"))) < 2:
            if time.monotonic() > deadline:
                raise TimeoutError("nobody came")
            time.sleep(0.02)
        return Scored(float(os.getpid()), notes={"events": str(self.events)})

    @hookimpl
    def on_phase(self, phase):
        self.events += 1

class TwoParts(PluginError):
    def __init__(self, what, how):
        super().__init__(f"{what} {how}")

class Unmarked(R):
    def on_step(self, step): pass

plain = Component("plain", R, O)

@hookimpl
def ppokit_reward_providers():
    return [Component("twin", R, O)]

counts = Component("counts", Counts, O)
two = Component("two", options=Two)
each = Component("each", Each, O)
hidden = Component("hidden", lambda options, context: Each(options, context), O)
hears = Component("hears", Hears, O)
meets = Component("meets", Meets, O)
unmarked = Component("unmarked", Unmarked, O)
"""
WHERE = "reward 'timed' (plugin acme 1.0; recipe: rewards[0].use)"
LENGTHS = [10.0, 10.0, 10.0]  # of "response 0", ...


def rollout(do: str = "score") -> Rollout:
    """Three responses to a prompt that tells the provider what to do."""
    return replace(make_rollout([[1], [2], [3]], [[4, 5, 6], [7], [8, 9]]), prompts=[do] * 3)


class Tokenizer:
    """Counts how often it is sent."""

    sent = 0

    def __reduce__(self) -> tuple[type, tuple[str]]:
        self.sent += 1
        return str, ("the tokenizer",)


def worker_for(
    name: str = "plain",
    build: str = "well",
    timeout: float = 60.0,
    tokenizer: Any = None,
    concurrency: int | None = None,
) -> WorkerProvider:
    """A worker of `worker_rewards`, which must be in the working directory."""
    use = f"worker_rewards:{name}"
    component, plugin = PluginRegistry().component("rewards", use)
    settings = RewardSettings(use=use, timeout=timeout, concurrency=concurrency, isolate="process")
    options = component.options.model_validate({"build": build})
    reward = SelectedComponent("rewards", "rewards[0]", "timed", settings, component, options, plugin, WHERE)
    context = BuildContext(torch.device("cpu"), torch.float32, 0, tokenizer=tokenizer)
    worker = in_worker(reward, context)
    assert worker is not None
    return worker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of all of them."""
    path = tmp_path_factory.mktemp("worker")
    (path / "worker_rewards.py").write_text(SOURCE)
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[WorkerProvider]:
    """One for all tests, since a process takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        started = worker_for()
    yield started
    started.close()


def scorer(worker: WorkerProvider) -> Scorer:
    return Scorer([built("rewards", worker, "timed", where=WHERE)], single_process(), 0.0)


def pid(folder: Path) -> int:
    return int((folder / "pid").read_text())


def is_gone(process: int, seconds: float = 10.0) -> bool:
    """Whether a process ends, or is a zombie that nobody has waited for, in so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
                return True
            os.kill(process, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        ("raise", RewardError, r"First cause: KeyError: 'x'"),
        ("leave", RewardError, r"First cause: SystemExit: 0"),
        ("break", PluginError, r"column answer is empty"),
        ("die", RewardError, r"First cause: ChildProcessError: its process ended with exit code 7"),
    ],
)
def test_what_it_raises_is_as_without_a_timeout(
    here: Path, worker: WorkerProvider, do: str, error: type[PpokitError], message: str
) -> None:
    with pytest.raises(error, match=rf"reward 'timed' \(plugin acme 1\.0.*{message}"):
        scorer(worker).score(rollout(do))
    assert pid(here) != os.getpid()
    assert scorer(worker).score(rollout()).scores.tolist() == LENGTHS


def test_a_call_that_takes_too_long_is_ended(here: Path, worker: WorkerProvider) -> None:
    """Also in C code that holds the interpreter's lock; the next call is answered by a new process."""
    worker.timeout = 1.0
    first = pid(here)
    with pytest.raises(RewardError, match=r"acme 1\.0.*First cause: TimeoutError: no answer in 1 s"):
        scorer(worker).score(rollout("backtrack"))
    worker.timeout = 60.0
    assert is_gone(first)
    assert scorer(worker).score(rollout()).scores.tolist() == LENGTHS
    assert pid(here) != first


def test_a_signal_ends_the_call(here: Path, worker: WorkerProvider) -> None:
    """What the handler raises comes through, and no late answer is taken for that of the next call."""

    class Told(BaseException): ...

    def tell(*_: object) -> None:
        raise Told

    process = pid(here)
    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Told):
            worker.score(rollout("backtrack"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert is_gone(process)


def test_it_is_closed_with_the_run(here: Path, worker: WorkerProvider) -> None:
    assert not isinstance(worker, StatefulWorkerProvider)
    assert scorer(worker).score(rollout()).scores.tolist() == LENGTHS
    process = pid(here)
    worker.close()
    assert is_gone(process)
    worker.close()


@pytest.mark.parametrize(
    ("name", "build", "message"),
    [
        ("plain", "no model", "there is no such model"),
        ("plain", "leaves", "build failed: SystemExit: 0"),
        ("plain", "own class", "the table is empty"),
        ("plain", "recipe", "recipe: 0 problems"),
        ("unmarked", "well", "has the method on_step without @hookimpl"),
    ],
)
def test_what_goes_wrong_while_it_is_built_names_it(here: Path, name: str, build: str, message: str) -> None:
    with pytest.raises(PpokitError, match=rf"reward 'timed' \(plugin acme 1\.0.*{message}"):
        worker_for(name, build)
    assert is_gone(pid(here))


def test_it_hears_of_events(here: Path) -> None:
    """With the arguments that it names; one that is started later hears of the run's start as well."""
    worker = worker_for("hears")
    hooks = EventHooks([RunComponent("rewards/timed", WHERE, worker)])

    def step(number: int, mean: float) -> None:
        hooks.emit(
            "on_step",
            step=number,
            rollout=rollout(),
            rewards=f"rewards {number}",
            advantages=object,  # what is not named is not sent
            metrics={"reward/mean": mean},
        )

    hooks.emit("on_run_start", step=0, steps=3, folder=here, recipe={"run": {"out": "runs/a"}})
    step(1, 0.5)
    assert worker.score(rollout()).scores.tolist() == LENGTHS
    with pytest.raises(PluginError, match=r"reward 'timed' \(plugin acme.*on_step failed: KeyError: 'below"):
        step(2, -1.0)
    with pytest.raises(
        PluginError, match="on_step failed: TypeError: 'mappingproxy' object does not support"
    ):
        step(2, 7.0)
    worker.timeout = 1.0
    with pytest.raises(PluginError, match=r"reward 'timed' .*on_step failed: TimeoutError: no answer in 1 s"):
        step(2, 10.0)
    worker.timeout = 60.0
    step(3, 1.5)
    worker.close()
    start = "start of 3 for runs/a"
    assert (here / "closed").read_text() == f"{start}; 1: 0.5, rewards 1; {start}; 3: 1.5, rewards 3"


def test_what_is_of_no_use_to_ask_again_is_not_asked_again(
    here: Path, worker: WorkerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors say so in the process, and are heard outside of it; a `close` is awaited there."""
    monkeypatch.setattr("ppokit.rewards.limits._FIRST_S", 0.001)
    tokenizer: Any = Tokenizer()
    each = worker_for("each", tokenizer=tokenizer)
    for provider, expected in [(worker, "3 1 "), (each, "sample sample ")]:
        reward = built("rewards", provider, "timed", where=WHERE, retries=1, isolate="process")
        context = RewardContext(tokenizer=tokenizer)
        scoring = Scorer([reward], single_process(), 1.0, context=context)
        with suppress(RewardError):
            scoring.score(rollout("no use"))
        scoring.close()
        assert (here / "asked").read_text() == expected
        (here / "asked").unlink()
    each.close()
    assert (here / "closed").exists()
    assert (here / "tokenizer").read_text() == "the tokenizer"
    assert tokenizer.sent == 1, "with what the process was built of, not with each call"


def test_a_response_at_a_time_costs_its_own_response_alone(here: Path) -> None:
    """Also where a coroutine holds the interpreter's lock, and could not be cancelled."""
    worker = worker_for("each", timeout=1.0)
    reward = built("rewards", worker, "timed", where=WHERE, timeout=1.0, isolate="process")
    scoring = Scorer([reward], single_process(), 1.0)
    rewards = scoring.score(rollout("backtrack"), step=5)
    assert rewards.outcomes["timed"] == ("scored", "failed", "failed")
    assert rewards.reasons["timed"] == ("", "TimeoutError: no answer in 1 s", "KeyError: 'x'")
    assert rewards.scores.tolist() == [5, 0, 0]
    assert scoring.score(rollout(), step=6).scores.tolist() == [6, 6, 0]
    weighed = built("rewards", worker, "timed", where=WHERE, timeout=60.0, parts={"safe": 1.0})
    by_parts = Scorer([weighed], single_process(), 0.99)
    rewards = by_parts.score(rollout("parts"))
    assert rewards.scores.tolist() == [2, 0, 2]
    assert rewards.reasons["timed"] == ("", "Unsendable: x", "")
    noted = scoring.score(rollout("noted"))
    assert noted.reasons["timed"] == ("Unsendable: x",) * 3
    assert noted.notes["timed/why"] == ("no",) * 3
    assert noted.parts["timed/safe"].tolist() == [0.5] * 3
    by_parts.close()
    scoring.close()
    worker.close()


def test_a_disabled_plugin_is_disabled_there(here: Path) -> None:
    """Of two that offer one name, `--disable-plugin` has chosen."""
    for package in ("one-dist", "two-dist"):
        distribution(here, package, {"rewards.twin": "worker_rewards"}, {})
    use, disabled = "twin", ["rewards.twin@two-dist"]
    component, plugin = PluginRegistry(disabled).component("rewards", use)
    settings = RewardSettings(use=use, timeout=60.0)
    options = component.options()
    reward = SelectedComponent("rewards", "rewards[0]", use, settings, component, options, plugin, WHERE)
    context = BuildContext(torch.device("cpu"), torch.float32, 0)
    worker = in_worker(reward, context, disabled)
    assert worker is not None
    assert worker.score(rollout()).scores.tolist() == LENGTHS
    worker.close()


def test_state_outlives_the_process(here: Path) -> None:
    worker = worker_for("counts", timeout=60.0)
    assert isinstance(worker, StatefulWorkerProvider)
    worker.load_state_dict({"calls": 41})
    worker.timeout = 1.0
    with pytest.raises(TimeoutError):
        worker.score(rollout("sleep"))
    worker.timeout = 60.0
    assert worker.state_dict() == {"calls": 41}
    assert worker.score(rollout()).scores.tolist() == [42.0] * 3
    assert worker.state_dict() == {"calls": 42}
    worker.close()


def test_it_does_not_outlive_a_trainer_that_is_killed(here: Path) -> None:
    """Not even while it is in C code that holds the interpreter's lock."""
    (here / "called").unlink(missing_ok=True)
    tests = Path(__file__).parent
    script = (
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}, {str(here)!r}]\n"
        "import test_timed_worker as t\n"
        "t.worker_for().score(t.rollout('backtrack'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=here)
    try:
        deadline = time.monotonic() + 60
        while not (here / "called").exists():
            assert time.monotonic() < deadline, "the provider was not called"
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
    assert is_gone(pid(here))


def test_its_calls_are_cut_as_without_a_process(here: Path) -> None:
    worker = worker_for("two")
    scores = Scorer([built("rewards", worker, "timed", where=WHERE)], single_process(), 0.0).score(rollout())
    assert scores.scores.tolist() == [2, 2, 1]
    worker.close()


def test_calls_at_once_have_a_process_each(here: Path) -> None:
    """Two calls wait for one another; each process is built once, and hears of every event."""
    worker = worker_for("meets", concurrency=2)
    reward = built("rewards", worker, "timed", where=WHERE, timeout=60.0, concurrency=2)
    EventHooks([RunComponent("rewards/timed", WHERE, worker)]).emit("on_phase", step=1, phase="sampling")
    scoring = Scorer([reward], single_process(), 0.0)
    first = scoring.score(rollout())
    again = scoring.score(rollout())
    scoring.close()
    processes = set(first.scores.tolist())
    assert len(processes) == 2
    assert set(again.scores.tolist()) <= processes
    assert first.notes["timed/events"] == ("1", "1", "1")
    assert (here / "built").read_text() == "once once "
    worker.close()
    assert all(is_gone(int(process)) for process in processes)


def test_state_is_that_of_one_process(here: Path) -> None:
    with pytest.raises(
        PluginError, match=r"reward 'timed' .*keeps state .*rewards\[0\]\.concurrency is 2: each"
    ):
        worker_for("counts", concurrency=2)
    assert is_gone(pid(here))


def test_a_coroutine_is_cancelled_though_nothing_showed_it(here: Path) -> None:
    """It has no process of its own, as if its class had been named."""
    component, plugin = PluginRegistry().component("rewards", "worker_rewards:hidden")
    settings = RewardSettings(use="worker_rewards:hidden", timeout=60.0, concurrency=16)
    options = component.options()
    reward = SelectedComponent("rewards", "rewards[0]", "timed", settings, component, options, plugin, WHERE)
    context = BuildContext(torch.device("cpu"), torch.float32, 0)
    builder = ComponentBuilder((), context, [], is_main=True)
    built_one = builder.build_reward(reward)
    assert type(built_one.instance).__name__ == "Each"
    assert pid(here) == os.getpid()
