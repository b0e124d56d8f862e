"""Builds the components that a recipe selects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ppokit.config.components import BuiltComponent, SelectedComponent
from ppokit.errors import PluginError
from ppokit.plugin.protocols import AdvantageWeighting, BuildContext
from ppokit.rewards.timed_worker import in_worker
from ppokit.run.components import RunComponent


def in_own_process(reward: SelectedComponent) -> bool:
    """Whether a reward's calls run in a process of their own.

    A coroutine is cancelled at its timeout, and needs none: where what is built says so before it is built.
    """
    settings = reward.settings
    if settings.isolate is not None:
        return bool(settings.isolate == "process")
    return settings.timeout is not None and not reward.is_async


@dataclass
class ComponentBuilder:
    """Builds a recipe's components, each through one guard, and keeps what they built.

    Attributes:
        disabled: plugins that `use` does not mean.
    """

    disabled: Sequence[str]
    context: BuildContext
    instances: list[RunComponent]
    is_main: bool

    def build(self, selected: SelectedComponent) -> BuiltComponent:
        """A component with its object.

        Raises:
            PluginError: the plugin failed, or asks to run where its kind cannot.
        """
        if selected.runs_on == "main" and selected.kind in ("advantages", "losses", "evaluators"):
            raise PluginError(
                f"{selected.where} has runs_on 'main'; {selected.kind} run on every process, so leave it at "
                "'each'."
            )
        return self.add(selected.build(self.context, is_main=self.is_main))

    def build_reward(self, selected: SelectedComponent) -> BuiltComponent:
        """A reward; in a process of its own where the recipe says so, or where its timeout needs one."""
        context, alone = self.context, in_own_process(selected)
        beside = selected.settings.beside_main_thread or selected.is_async
        if alone or beside:  # while the main thread computes with the base
            context = replace(context, base=None)
        elsewhere = selected.runs_on == "main" and not self.is_main
        worker = None if elsewhere or not alone else in_worker(selected, context, self.disabled)
        if worker is None:
            return self.add(selected.build(context, is_main=self.is_main))
        return self.add(selected.built(worker))

    def build_loss(self, selected: SelectedComponent) -> BuiltComponent:
        """A loss.

        Raises:
            PluginError: it has a weight that would do nothing.
        """
        loss, weight = self.build(selected), selected.settings.weight
        if isinstance(loss.instance, AdvantageWeighting) and weight != 1.0:
            raise PluginError(
                f"{loss.where} weighs the advantages of the other losses and adds none: "
                f"{loss.key}.weight {weight:g} would do nothing; leave it out."
            )
        return loss

    def add(self, built: BuiltComponent) -> BuiltComponent:
        """Keep what a component has built."""
        if built.instance is not None:
            on_error: Any = built.settings.on_error if built.kind == "observers" else "stop"
            self.instances.append(RunComponent(self._key(built), built.where, built.instance, on_error))
        return built

    def _key(self, selected: SelectedComponent) -> str:
        """`observers/tracker`, and `observers/tracker-2` for a second of the same name."""
        key = f"{selected.kind}/{selected.name}"
        known = {component.key for component in self.instances}
        return next(k for n in itertools.count(1) if (k := key if n == 1 else f"{key}-{n}") not in known)
