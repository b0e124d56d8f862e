"""Import an installed plugin and ask its hook for a component."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, get_args

import pluggy
from pydantic import BaseModel

from ppokit import __version__
from ppokit.config.entries import Entry
from ppokit.config.requirements import other_ppokit
from ppokit.errors import PluginError, in_one_paragraph, plugin_call
from ppokit.kinds import HOOK_BY_KIND, PROJECT
from ppokit.messages import listed, suggest
from ppokit.plugin import hookspecs
from ppokit.plugin.protocols import Component, Need

METHOD = {
    "rewards": "score",
    "advantages": "estimate",
    "losses": "token_losses",
    "rollout": "generate",
    "evaluators": "evaluate",
}
"""By kind: the method that the core calls; observers have methods named like events instead."""

_INSTEAD = {"losses": "advantage_weights", "rewards": "score_one"}  # what may take its place


def import_plugin(entry: Entry) -> tuple[ModuleType, str]:
    """The module that an entry point names, and how errors name the component.

    Raises:
        PluginError: it cannot be imported, or is built for another ppokit.
    """
    who = f"{entry.kind} {entry.name!r} (plugin {entry.label})"
    if built_for := other_ppokit(entry.distribution):
        raise PluginError(
            f"{who} is built for {built_for}; this is ppokit {__version__}. Install a version of "
            f"{entry.distribution} that fits, or that ppokit."
        )
    try:
        return importlib.import_module(entry.module), who
    except (Exception, SystemExit) as error:
        raise PluginError(f"{who} cannot be imported: {in_one_paragraph(error)}") from error


def offered(module: ModuleType, entry: Entry, who: str) -> Component:
    """The component of an entry point, by its module's hook.

    Raises:
        PluginError: the module does not offer what the entry point says.
    """
    hook = HOOK_BY_KIND[entry.kind]
    components = _offered(module, hook, who)
    names = [component.name for component in components]
    if len(set(names)) < len(names):
        raise PluginError(f"{who}: {hook}() returned a name twice: {', '.join(names)}; expected each once")
    if entry.name not in names:
        raise PluginError(
            f"{who}: {hook}() returned {listed(map(repr, names))}; expected {entry.name!r} among them, "
            f"as its entry point says"
        )
    component = components[names.index(entry.name)]
    check_component(component, entry.kind, who)
    return component


def check_component(component: Component, kind: str, who: str) -> None:
    """That the fields of a component are what they must be.

    Raises:
        PluginError: one is not.
    """
    if not (isinstance(component.options, type) and issubclass(component.options, BaseModel)):
        raise PluginError(
            f"{who}: options is {component.options!r}; expected a subclass of ppokit.plugin.Options"
        )
    if isinstance(component.needs, str):
        raise PluginError(
            f"{who}: needs is the text {component.needs!r}; expected a set: {{{component.needs!r}}}"
        )
    if unknown := sorted(set(component.needs) - set(get_args(Need))):
        raise PluginError(
            f"{who}: needs {listed(map(repr, unknown))}; expected {listed(get_args(Need), 'or')}"
        )
    if component.runs_on not in ("each", "main"):
        raise PluginError(f"{who}: runs_on is {component.runs_on!r}; expected 'each' or 'main'")
    for name in ("awaited", "imports"):
        given = getattr(component, name)
        if given is not None and not callable(given):
            raise PluginError(f"{who}: {name} is {given!r}; expected a function of the options")
    if component.build is Component.build and not has_method(kind, component.options):
        raise PluginError(
            f"{who} has no build, so that its options are its object, and {component.options.__name__} "
            f"has no method {METHOD[kind]!r}, which the core calls; expected the method, or a build"
        )


def has_method(kind: str, thing: object) -> bool:
    """Whether an object, or a class of such objects, has the method that the core calls on its kind."""
    method = METHOD.get(kind)
    return method is None or hasattr(thing, method) or hasattr(thing, _INSTEAD.get(kind, method))


def _offered(module: ModuleType, hook: str, who: str) -> list[Component]:
    for name in vars(module):
        if name.startswith(f"{PROJECT}_") and callable(getattr(module, name)):
            if name not in HOOK_BY_KIND.values():
                hint = suggest(name, HOOK_BY_KIND.values())
                raise PluginError(f"{who} defines {name}, which is no hook of ppokit{hint}")
            if not hasattr(getattr(module, name), f"{PROJECT}_impl"):
                raise PluginError(f"{who} defines {name} without @ppokit.hookimpl above it")
    manager = pluggy.PluginManager(PROJECT)  # one per plugin, so that the hook is called on it alone
    manager.add_hookspecs(hookspecs)
    with plugin_call(who, f"{hook}()"):
        manager.register(module)
        manager.check_pending()
        results: list[Any] = getattr(manager.hook, hook)()
    if not results:
        raise PluginError(f"{who} has no hook {hook}, or it returned None; expected a list of Component")
    if not isinstance(results[0], list) or not all(isinstance(c, Component) for c in results[0]):
        raise PluginError(f"{who}: {hook}() returned {results[0]!r}; expected a list of Component")
    return results[0]
