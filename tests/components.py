"""Components with an object of a test's own, as the recipe's are once they are built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ppokit.config.components import BuiltComponent
from ppokit.config.settings import CHOSEN
from ppokit.plugin.protocols import Component, Options


def built(
    kind: str,
    instance: Any,
    name: str = "one",
    needs: Iterable[Any] = (),
    *,
    where: str = "",
    runs_on: Any = "each",
    **settings: Any,
) -> BuiltComponent:
    """What a component of this kind has built, with the core's keys beside `use` as `settings`."""
    component = Component(name, lambda options, context: instance, needs=frozenset(needs), runs_on=runs_on)
    section = CHOSEN[kind](use=name, **settings)
    where = where or f"{kind} {name!r} (plugin acme 1.0; recipe: {kind}[0].use)"
    return BuiltComponent(
        kind, f"{kind}[0]", name, section, component, Options(), "acme 1.0", where, instance
    )


def reward(instance: Any, name: str = "one", **keys: Any) -> BuiltComponent:
    """A reward of a third party."""
    return built("rewards", instance, name, where=f"reward {name!r} (plugin acme 1.0)", **keys)
