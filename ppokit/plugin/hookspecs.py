"""The hooks. A plugin is a module with some of these functions, marked with `hookimpl`.

Hooks find, plain objects compute: each hook is called once, when a recipe names a component of the
plugin's, and returns the components that the module offers of that kind. The module is announced by
an entry point of the group `ppokit`, named `<kind>.<component>`, one for each component:

    [project.entry-points.ppokit]
    "rewards.politeness" = "my_package.politeness"

so that nothing need be imported to know what is installed.
"""

from __future__ import annotations

import pluggy

from ppokit.plugin.protocols import Component

PROJECT = "ppokit"
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
def ppokit_observers() -> list[Component]:  # type: ignore[empty-body]
    """Components that build an `Observer`; chosen by `observers[].use`."""


HOOK_BY_KIND = {
    "rewards": "ppokit_reward_providers",
    "advantages": "ppokit_advantage_estimators",
    "losses": "ppokit_losses",
    "rollout": "ppokit_rollout_engines",
    "observers": "ppokit_observers",
}
"""A kind is the recipe's key under which its components are chosen."""
