"""The events of a run, as pluggy hooks: one manager per run, on which every component is registered.

Each implementation is called by itself, so that an error names the component that raised it, and an observer
with `on_error: warn` does not keep the others from hearing of the event.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pluggy

from ppokit.errors import PluginError, PpokitError, PpokitWarning, in_one_paragraph, plugin_call
from ppokit.messages import listed, suggest
from ppokit.plugin.hookspecs import EVENTS, PROJECT, Events
from ppokit.run.components import RunComponent

_MARK = f"{PROJECT}_impl"


class EventHooks:
    """Tells components what happens, in the order of the recipe.

    Args:
        components: of this process; those without a method for an event are passed over.

    Raises:
        PluginError: a method is named like an event and not marked, or marked and named like none, or has an
            argument that its event does not give.
    """

    def __init__(self, components: Sequence[RunComponent]) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Events)
        self._by_key = {component.key: component for component in components}
        self._warned: set[tuple[str, str]] = set()
        # pluggy calls the last that was registered first.
        for component in reversed(components):
            listener = _Listener()
            for name in _event_methods(component):
                setattr(listener, name, getattr(component.instance, name))
            try:
                self._manager.register(listener, name=component.key)
            except pluggy.PluginValidationError as error:
                raise PluginError(f"{component.where}: {in_one_paragraph(error)}") from error

    def emit(self, event: str, **arguments: Any) -> None:
        """Call every implementation of an event with the arguments that it names.

        Raises:
            PpokitError: one failed, and the run is to stop for it, once all have been called.
        """
        failure: PpokitError | None = None
        given = {
            name: MappingProxyType(dict(value)) if isinstance(value, Mapping) else value
            for name, value in arguments.items()
        }
        for implementation in reversed(getattr(self._manager.hook, event).get_hookimpls()):
            component = self._by_key[implementation.plugin_name]
            try:
                with plugin_call(component.where, event):
                    implementation.function(*(given[name] for name in implementation.argnames))
            except PpokitError as error:
                if component.on_error == "stop":
                    failure = failure or error
                elif (component.key, event) not in self._warned:
                    self._warned.add((component.key, event))
                    warnings.warn(f"{error}; the run goes on without it", PpokitWarning, stacklevel=2)
        if failure is not None:
            raise failure


class _Listener:
    """The marked methods of one component: pluggy would read its other attributes as well."""


def _event_methods(component: RunComponent) -> list[str]:
    """Names of the methods that implement an event."""
    instance, where = component.instance, component.where
    names = []
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
        _check_arguments(where, name, getattr(instance, name))
        names.append(name)
    return names


def _check_arguments(where: str, event: str, method: Any) -> None:
    """Every argument must be one that the event gives; pluggy passes none that has a default."""
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
