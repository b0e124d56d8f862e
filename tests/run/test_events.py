"""Events: who hears of what, with which arguments, and what a failure does."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from ppokit.errors import PluginError, PpokitWarning
from ppokit.plugin import hookimpl
from ppokit.plugin.hookspecs import EVENTS
from ppokit.plugin.types import Advantages, Rollout
from ppokit.run.components import RunComponent
from ppokit.run.events import EventHooks
from rollouts import make_rollout


def hooks(*instances: Any, on_error: Any = "stop") -> EventHooks:
    return EventHooks(
        [RunComponent(f"observers/{i}", f"observer {i}", one, on_error) for i, one in enumerate(instances)]
    )


class Ear:
    """Hears of steps, and can be told apart."""

    def __init__(self, calls: list[Any], name: str = "ear") -> None:
        self.heard, self.name = calls, name

    @hookimpl
    def on_step(self, metrics: Any, step: int) -> None:
        self.heard.append((self.name, step, dict(metrics)))


def test_an_implementation_gets_the_arguments_that_it_names() -> None:
    calls: list[Any] = []
    hooks(Ear(calls)).emit(
        "on_step", step=3, rollout=None, rewards=None, advantages=None, metrics={"reward/mean": 0.5}
    )
    assert calls == [("ear", 3, {"reward/mean": 0.5})]


def test_in_the_order_of_the_recipe() -> None:
    calls: list[Any] = []
    hooks(Ear(calls, "a"), Ear(calls, "b"), object(), Ear(calls, "c")).emit("on_step", step=1, metrics={})
    assert [name for name, *_ in calls] == ["a", "b", "c"]


def test_every_event_is_documented_and_reaches_its_method() -> None:
    calls: list[str] = []
    methods = {name: hookimpl(_noting(name, calls)) for name in EVENTS}
    ear = type("Everything", (), methods)()
    event_hooks = hooks(ear)
    for name in EVENTS:
        event_hooks.emit(name, step=1)
    assert calls == list(EVENTS)
    assert len(EVENTS) == 7


def _noting(name: str, calls: list[str]) -> Any:
    def method(self: Any, step: int) -> None:
        calls.append(name)

    return method


def test_what_one_does_to_the_metrics_another_does_not_see() -> None:
    calls: list[Any] = []

    class Vandal:
        @hookimpl
        def on_step(self, metrics: Any) -> None:
            metrics["reward/mean"] = 77.0

    event_hooks = hooks(Vandal(), Ear(calls), on_error="warn")
    metrics = {"reward/mean": 0.5}
    with pytest.warns(PpokitWarning, match="observer 0: on_step failed: TypeError"):
        event_hooks.emit("on_step", step=1, metrics=metrics)
    assert calls == [("ear", 1, {"reward/mean": 0.5})]
    assert metrics == {"reward/mean": 0.5}


def test_what_one_does_to_a_rollout_changes_nothing_for_others() -> None:
    """Neither for a reward that learns from the step after it, nor for a loop of the user's own."""
    seen: list[Any] = []

    class Vandal:
        @hookimpl
        def on_step(self, rollout: Rollout, advantages: Advantages) -> None:
            rollout.response_ids.zero_()
            rollout.loss_mask.numpy()[:] = False
            rollout.rows[0]["row"] = "changed"
            rollout.responses.clear()
            advantages.advantages.fill_(math.nan)

        @hookimpl
        def on_run_start(self, recipe: Any) -> None:
            recipe["run"]["steps"] = 0

    class Reader:
        @hookimpl
        def on_step(self, rollout: Rollout, advantages: Advantages) -> None:
            seen.append((rollout, advantages))

        @hookimpl
        def on_run_start(self, recipe: Any) -> None:
            seen.append(recipe)

    rollout, advantages = make_rollout([[1], [2]], [[4, 5], [6]]), Advantages(torch.ones(2, 2))
    recipe = {"run": {"steps": 3}}
    event_hooks = hooks(Vandal(), Reader())
    event_hooks.emit("on_run_start", step=0, steps=3, folder=None, recipe=recipe)
    event_hooks.emit("on_step", step=1, rollout=rollout, advantages=advantages)
    (given, read), known = seen[1], make_rollout([[1], [2]], [[4, 5], [6]])
    for one in (rollout, given):
        assert one.response_ids.tolist() == known.response_ids.tolist()
        assert one.loss_mask.tolist() == known.loss_mask.tolist()
        assert (one.rows, one.responses) == (known.rows, known.responses)
    for numbers in (advantages, read):
        assert numbers.advantages.tolist() == [[1, 1], [1, 1]]
    assert recipe == {"run": {"steps": 3}}
    assert seen[0] == recipe


class Broken:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    @hookimpl
    def on_step(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(0), GeneratorExit(), AssertionError()])
def test_a_failure_names_the_component(error: BaseException) -> None:
    with pytest.raises(PluginError, match=f"observer 0: on_step failed: {type(error).__name__}"):
        hooks(Broken(error)).emit("on_step", step=1)


def test_a_failure_keeps_nobody_else_from_hearing() -> None:
    calls: list[Any] = []
    with pytest.raises(PluginError, match=r"observer 0: .*first"):
        hooks(Broken(ValueError("first")), Ear(calls), Broken(ValueError("second"))).emit(
            "on_step", step=1, metrics={}
        )
    assert calls == [("ear", 1, {})]


def test_a_failure_is_told_once_where_the_run_goes_on() -> None:
    calls: list[Any] = []
    event_hooks = hooks(Broken(SystemExit(0)), Ear(calls), on_error="warn")
    with pytest.warns(PpokitWarning, match="observer 0: on_step failed: SystemExit.*goes on"):
        event_hooks.emit("on_step", step=1, metrics={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        event_hooks.emit("on_step", step=2, metrics={})
    assert [step for _, step, _ in calls] == [1, 2]


def _with(name: str, method: Any) -> Any:
    return type("Odd", (), {name: method})()


def test_what_is_refused() -> None:
    def unmarked(self: Any, step: int) -> None: ...

    @hookimpl
    def marked(self: Any, step: int) -> None: ...

    @hookimpl
    def unknown_argument(self: Any, metric: int) -> None: ...

    @hookimpl
    def default(self: Any, step: int = 0) -> None: ...

    @hookimpl(wrapper=True)
    def wrapper(self: Any) -> Any:
        yield

    with pytest.raises(PluginError, match="observer 0 has the method on_step without @hookimpl"):
        hooks(_with("on_step", unmarked))
    with pytest.raises(PluginError, match=r"marks on_steps with @hookimpl, which is no event.*on_step\b"):
        hooks(_with("on_steps", marked))
    with pytest.raises(PluginError, match=r"has the argument 'metric', which this event does not.*'metrics'"):
        hooks(_with("on_step", unknown_argument))
    with pytest.raises(PluginError, match="drop the default"):
        hooks(_with("on_step", default))
    with pytest.raises(PluginError, match="cannot be wrapped"):
        hooks(_with("on_step", wrapper))


def test_other_attributes_are_left_alone() -> None:
    class Shy:
        on_target = 3

        @property
        def on_demand(self) -> int:
            raise AssertionError("read")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

    calls: list[Any] = []
    hooks(Shy(), Ear(calls), Shy()).emit("on_step", step=1, metrics={})
    assert calls == [("ear", 1, {})]


def test_a_coroutine_is_refused() -> None:
    """Nobody would await it."""

    class Waits:
        @hookimpl
        async def on_step(self, step: int) -> None: ...

    with pytest.raises(PluginError, match="observer 0: on_step is async, and nobody awaits an event"):
        hooks(Waits())

    class Returns:
        @hookimpl
        def on_step(self, step: int) -> Any:
            return Waits().on_step(step)

    with pytest.raises(PluginError, match="observer 0: on_step returned a coroutine, and nobody awaits"):
        hooks(Returns()).emit("on_step", step=1)
