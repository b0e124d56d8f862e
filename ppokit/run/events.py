"""The events of a run, as pluggy hooks: one manager per run, on which every component is registered.

Each implementation is called by itself, so that an error names the component that raised it, and an observer
with `on_error: warn` does not keep the others from hearing of the event.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import pluggy

from ppokit.errors import PluginError, PpokitError, PpokitWarning, in_one_paragraph, plugin_call
from ppokit.kinds import PROJECT
from ppokit.plugin.event_methods import event_methods
from ppokit.plugin.hookspecs import Events
from ppokit.run.components import RunComponent


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
            for name in event_methods(component.instance, component.where):
                setattr(listener, name, getattr(component.instance, name))
            try:
                self._manager.register(listener, name=component.key)
            except pluggy.PluginValidationError as error:
                raise PluginError(f"{component.where}: {in_one_paragraph(error)}") from error

    def emit(self, event: str, **arguments: Any) -> None:
        """Call every implementation of an event with copies of the arguments that it names.

        Raises:
            PpokitError: one failed, and the run is to stop for it, once all have been called.
        """
        failure: PpokitError | None = None
        for implementation in reversed(getattr(self._manager.hook, event).get_hookimpls()):
            component = self._by_key[implementation.plugin_name]
            try:
                with plugin_call(component.where, event):
                    _call(event, implementation.function, [arguments[n] for n in implementation.argnames])
            except PpokitError as error:
                if component.on_error == "stop":
                    failure = failure or error
                elif (component.key, event) not in self._warned:
                    self._warned.add((component.key, event))
                    warnings.warn(f"{error}; the run goes on without it", PpokitWarning, stacklevel=2)
        if failure is not None:
            raise failure


def _call(event: str, method: Callable[..., Any], arguments: Sequence[Any]) -> None:
    returned = method(*map(_own, arguments))
    if inspect.iscoroutine(returned):
        returned.close()
        raise PluginError(f"{event} returned a coroutine, and nobody awaits an event; do it in the method.")


def _own(value: Any) -> Any:
    """A copy for one implementation: others, and a loop of the user's own, go on with what there was."""
    return MappingProxyType(deepcopy(dict(value))) if isinstance(value, Mapping) else deepcopy(value)


class _Listener:
    """The marked methods of one component: pluggy would read its other attributes as well."""
