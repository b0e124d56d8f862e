"""A component of a recipe: as the recipe names it, and with the object that it has built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from ppokit.errors import plugin_call
from ppokit.plugin.protocols import BuildContext, Component, Need


@dataclass(frozen=True)
class SelectedComponent:
    """A component that the recipe names with `use:`.

    Attributes:
        kind: `rewards`, `advantages`, `losses`, `rollout`, `evaluators` or `observers`.
        key: where the recipe names it, e.g. `rewards[0]` or `evaluation.evaluators[0]`.
        name: its own `name:`, or that of the component.
        settings: the core's keys of its section.
        component: what the plugin offers.
        options: the plugin's keys, validated.
        plugin: how errors name the plugin: `ppokit_rewards.sentiment, ppokit 0.1.0`.
        where: how errors name the component: what it is, its plugin, and where the recipe names it.
    """

    kind: str
    key: str
    name: str
    settings: Any
    component: Component = field(compare=False)  # each registry has its own; `plugin` tells which
    options: BaseModel
    plugin: str
    where: str = field(compare=False)

    @property
    def needs(self) -> frozenset[Need]:
        return self.component.needs

    @property
    def runs_on(self) -> Literal["each", "main"]:
        return self.component.runs_on

    @property
    def is_async(self) -> bool:
        """Whether it is a reward that is awaited, as far as that shows before it is built.

        Raises:
            PluginError: the plugin failed.
        """
        with plugin_call(self.where, "awaited"):
            return self.component.is_async(self.options)

    @property
    def imports(self) -> Mapping[str, Path | None]:
        """Whose code its options name, with its file where that is no module.

        Raises:
            PluginError: the plugin failed.
        """
        if self.component.imports is None:
            return {}
        with plugin_call(self.where, "imports"):
            return dict(self.component.imports(self.options))

    def build(self, context: BuildContext, *, is_main: bool = True) -> BuiltComponent:
        """Build its object, unless it runs on the main process and this is another.

        Raises:
            PpokitError: the plugin failed.
        """
        if self.runs_on == "main" and not is_main:
            return self.built(None)
        with plugin_call(self.where, "build"):
            return self.built(self.component.build(self.options, context))

    def built(self, instance: Any) -> BuiltComponent:
        """The same with its object."""
        return BuiltComponent(**vars(self), instance=instance)


@dataclass(frozen=True)
class BuiltComponent(SelectedComponent):
    """A component with its object, or with None where it runs on the main process and this is another."""

    instance: Any
