"""The methods by which an object hears of events, found and held to what an event gives."""

from __future__ import annotations

import inspect
from typing import Any

from ppokit.errors import PluginError
from ppokit.kinds import PROJECT
from ppokit.messages import listed, suggest
from ppokit.plugin.coroutines import is_coroutine_function
from ppokit.plugin.hookspecs import EVENTS, Events

_MARK = f"{PROJECT}_impl"


def event_methods(instance: object, where: str) -> dict[str, tuple[str, ...]]:
    """Arguments that an object's methods name, by event.

    Args:
        where: how errors name the object.

    Raises:
        PluginError: a method is named like an event and not marked, or marked and named like none, is a
            coroutine, or has an argument that its event does not give.
    """
    methods = {}
    for name in sorted({*dir(type(instance)), *getattr(instance, "__dict__", {})}):
        if not name.startswith("on_"):
            continue
        function = inspect.getattr_static(instance, name)
        options = getattr(getattr(function, "__func__", function), _MARK, None)
        if options is None:
            if name in EVENTS:
                raise PluginError(
                    f"{where} has the method {name} without @hookimpl above it; mark or rename it."
                )
            continue
        if name not in EVENTS:
            raise PluginError(
                f"{where} marks {name} with @hookimpl, which is no event{suggest(name, EVENTS)}; "
                f"events are {listed(EVENTS)}."
            )
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"{where}: {name} is a wrapper; events cannot be wrapped.")
        if is_coroutine_function(getattr(instance, name)):
            raise PluginError(
                f"{where}: {name} is async, and nobody awaits an event; write def {name} without async."
            )
        methods[name] = _arguments(where, name, getattr(instance, name))
    return methods


def _arguments(where: str, event: str, method: Any) -> tuple[str, ...]:
    """Every argument must be one that the event gives; pluggy passes none that has a default."""
    names = []
    given = [name for name in inspect.signature(getattr(Events, event)).parameters if name != "self"]
    for name, argument in inspect.signature(method).parameters.items():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if argument.default is not argument.empty and name in given:
            raise PluginError(
                f"{where}: {event} gives its argument {name!r} a default, and would never get another; "
                "drop the default."
            )
        if argument.default is argument.empty and name not in given:
            raise PluginError(
                f"{where}: {event} has the argument {name!r}, which this event does not give"
                f"{suggest(name, given)}; it gives {listed(given)}."
            )
        if name in given:
            names.append(name)
    return tuple(names)
