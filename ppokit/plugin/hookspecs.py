"""The hooks: functions of a module that offer components, and methods of a component that hear of events.

A plugin is a module with some of the `ppokit_...` functions, marked with `hookimpl`. Each is called once,
when a recipe names a component of the plugin's, and returns the components that the module offers of that
kind. The module is announced by an entry point of the group `ppokit`, named `<kind>.<component>`, one per
component:

    [project.entry-points.ppokit]
    "rewards.politeness" = "my_package.politeness"

so that nothing need be imported to know what is installed.

The object that a component builds, of whatever kind, may have methods named like the `Events`, marked with
`hookimpl` too. pluggy hands each only the arguments that it names, so that events can grow:

    @hookimpl
    def on_step(self, step, metrics): ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from ppokit.kinds import PROJECT
from ppokit.plugin.protocols import Component

if TYPE_CHECKING:
    from ppokit.plugin.evaluating import Recorded
    from ppokit.plugin.types import Advantages, Rewards, Rollout

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ppokit_reward_providers() -> list[Component]:  # type: ignore[empty-body]
    """Components that build a `RewardProvider`; chosen by `rewards[].use`."""


@hookspec
def ppokit_advantage_estimators() -> list[Component]:  # type: ignore[empty-body]
    """Components that build an `AdvantageEstimator`; chosen by `advantages.use`."""


@hookspec
def ppokit_losses() -> list[Component]:  # type: ignore[empty-body]
    """Components that build a `Loss`; chosen by `losses[].use`."""


@hookspec
def ppokit_rollout_engines() -> list[Component]:  # type: ignore[empty-body]
    """Components that build a `RolloutEngine`; chosen by `rollout.use`."""


@hookspec
def ppokit_evaluators() -> list[Component]:  # type: ignore[empty-body]
    """Components that build an `Evaluator`; chosen by `evaluation.evaluators[].use`."""


@hookspec
def ppokit_observers() -> list[Component]:  # type: ignore[empty-body]
    """Components whose objects only watch, by the `Events`; chosen by `observers[].use`."""


class Events:
    """What happens in a run, for components of every kind and for the observers given to `PPOTrainer`.

    Every process tells the components that it has; observers are on the main process alone. Steps count
    from 1. What a method is handed is its own copy, so that its changes reach nobody; a mapping refuses them.
    State that follows from a step is changed in `on_step`: the checkpoint is taken after it.
    """

    @hookspec
    def on_run_start(self, step: int, steps: int, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Before the first step.

        Args:
            step: the step that was done last; 0 unless the run is resumed.
            steps: of the whole run.
            folder: the run's; written with the first report.
            recipe: as plain data, with all defaults filled in.
        """

    @hookspec
    def on_phase(self, step: int, phase: str) -> None:
        """A phase of a step begins: sampling, logprobs, reference, values, reward, update or evaluation.

        `evaluation` is announced again as each further evaluator, the measures of responses and those of
        texts begin.
        """

    @hookspec
    def on_step(
        self,
        step: int,
        rollout: Rollout,
        rewards: Rewards,
        advantages: Advantages,
        metrics: Mapping[str, float],
    ) -> None:
        """After each step's update and evaluation, with the whole rollout, before its checkpoint."""

    @hookspec
    def on_evaluation(self, step: int, metrics: Mapping[str, float], records: Sequence[Recorded]) -> None:
        """After an evaluation, with its metrics, and the responses that evaluators recorded or had scored."""

    @hookspec
    def on_warning(self, step: int, text: str) -> None:
        """Something that a person should look at, a sentence without its full stop; main process only."""

    @hookspec
    def on_checkpoint(self, step: int, folder: Path) -> None:
        """After a checkpoint has been written into `folder`; main process only."""

    @hookspec
    def on_run_end(self, step: int, error: str | None) -> None:
        """Once, after the last step that was done; `error` says what ended the run early."""


EVENTS = tuple(name for name in vars(Events) if name.startswith("on_"))
