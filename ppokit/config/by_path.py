"""A component from one file: `use: my_module:attribute`, without a package and without an entry point.

The attribute is one of

    a Component        used as it is
    a class            derived from `Options`: its fields are its options, and it is its own object;
                       any other: built by `Class(options, context)`, or by `Class()` where that takes
                       nothing, with the options of its nested class `Options`, if it has one
    a function         the one method of its kind, see `hooks`; parameters with a default are its options

A reward's function is `function(prompts, responses, **columns)`, each by keyword where its signature has it,
called as the reward `python` calls one. What a class or a function needs of the core stands in its attribute
`needs`, such as {"values"}; a reward's examples, and what it waives of the conformance kit, in `examples` and
`waivers`.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from types import ModuleType
from typing import Any

from pydantic import create_model

from ppokit.config.hooks import METHOD, check_component, has_method
from ppokit.errors import PluginError
from ppokit.messages import listed
from ppokit.plugin.importing import import_attribute
from ppokit.plugin.offering import OFFER
from ppokit.plugin.protocols import Component, Options

_SIMPLE = (bool, int, float, str)


def is_path(use: str) -> bool:
    """Whether `use` names a module's attribute and no installed component."""
    return ":" in use


def path_hint(use: str) -> str:
    """What to write in place of a file, such as `./my_rewards.py`, or of dots alone; else empty."""
    file, colon, attribute = use.partition(":")
    if file.endswith(".py") or "/" in file:
        parts = PurePath(file.removesuffix(".py")).parts
        if not all(part.isidentifier() for part in parts):
            parts = parts[-1:]
        return (
            "a file's path; a file is named as a module and what stands in it: "
            f"use: {'.'.join(parts)}:{attribute or 'thing'}"
        )
    module, dot, name = file.rpartition(".")
    if dot and not colon and all(part.isidentifier() for part in file.split(".")):
        return f"no plugin's name; what stands in a module is named behind a colon: use: {module}:{name}"
    return ""


def load_path(kind: str, path: str, reward_function: Callable[[], Component]) -> tuple[Component, str]:
    """The component at a path, and how errors name it: `my_module:attribute, /home/me/my_module.py`.

    Args:
        kind: the kind that the recipe asks for.
        path: `module:attribute`.
        reward_function: gives the installed component that calls a function as a reward.

    Raises:
        PluginError: there is nothing of use at the path.
    """
    module, _, attribute = path.partition(":")
    if hint := path_hint(path):
        raise PluginError(f"{path!r} is {hint}")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise PluginError(f"{path!r} is no path; expected module:attribute, such as my_rewards:brief")
    thing = import_attribute(path)
    label = f"{path}, {getattr(sys.modules[module], '__file__', None) or 'built in'}"
    who = f"{kind} {path!r} ({label.partition(', ')[2]})"
    name = attribute.rpartition(".")[2]
    if isinstance(thing, Component):
        component = thing
    elif inspect.isclass(thing):
        component = _of_class(kind, thing, name, who)
    elif inspect.isfunction(thing):
        component = _of_function(kind, thing, name, path, who, reward_function)
    else:
        raise PluginError(f"{who} is a {type(thing).__name__}; expected a Component, a class or a function")
    check_component(component, kind, who)
    return component, label


def decorated(module: ModuleType, kind: str, name: str) -> str | None:
    """The path of what a module's decorator offers under a name; None where there is no such thing."""
    for attribute, thing in vars(module).items():
        if getattr(thing, OFFER, None) == (kind, name) and thing.__module__ == module.__name__:
            return f"{module.__name__}:{attribute}"
    return None


def offers(module: ModuleType) -> list[str]:
    """What a module's decorators offer, as entry points name it: `rewards.brief`."""
    things = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
    return sorted({".".join(offer) for thing in things if (offer := getattr(thing, OFFER, None)) is not None})


def _of_class(kind: str, thing: type[Any], name: str, who: str) -> Component:
    if not has_method(kind, thing):
        raise PluginError(f"{who} is a class without the method {METHOD[kind]!r}, which the core calls")
    declared = _declared(thing)
    if issubclass(thing, Options):
        return Component(name, options=thing, **declared)
    count = len(inspect.signature(thing).parameters)
    if count not in (0, 2):
        raise PluginError(
            f"{who} is a class whose constructor takes {count} arguments; expected two, options and context, "
            "or none"
        )
    shown = Component(name, thing).is_async(Options())
    build = thing if count else _WithoutArguments(thing)
    return Component(
        name, build, getattr(thing, "Options", Options), awaited=lambda values: shown, **declared
    )


class _WithoutArguments:
    """Builds an object of a class whose constructor takes nothing."""

    def __init__(self, thing: type[Any]) -> None:
        self.thing = thing

    def __call__(self, options: Any, context: Any) -> Any:
        return self.thing()


def _of_function(
    kind: str,
    function: Callable[..., Any],
    name: str,
    path: str,
    who: str,
    reward_function: Callable[[], Component],
) -> Component:
    method = METHOD.get(kind)
    if method is None:
        raise PluginError(f"{who} is a function; expected a Component or a class")
    options = _options(function, name)
    if kind == "rewards":
        return _of_reward(function, name, path, options, reward_function())

    class Wrapped:
        def __init__(self, values: Options) -> None:
            arguments = values.model_dump()

            def call(*given: Any) -> Any:
                return function(*given, **arguments)

            setattr(self, str(method), call)

    return Component(name, lambda values, context: Wrapped(values), options, **_declared(function))


def _of_reward(
    function: Callable[..., Any],
    name: str,
    path: str,
    options: type[Options],
    caller: Component,
) -> Component:
    defaults = {key: field.default for key, field in options.model_fields.items()}

    def arguments(values: Options) -> Any:
        # A parameter at its default is left to the data set's column of that name.
        changed = {key: value for key, value in values.model_dump().items() if value != defaults[key]}
        return caller.options(function=path, arguments=changed)

    check = caller.check

    def build(values: Any, context: Any) -> Any:
        return caller.build(arguments(values), context)

    return replace(
        caller,
        name=name,
        build=build,
        options=options,
        check=None if check is None else lambda values, context: check(arguments(values), context),
        awaited=lambda values: caller.is_async(arguments(values)),
        imports=None,  # it is the function's own
        **_declared(function),
    )


def _declared(thing: Any) -> dict[str, Any]:
    """What the attributes of a class or a function say of its component."""
    needs = getattr(thing, "needs", ())
    return {
        "needs": needs if isinstance(needs, str) else frozenset(needs),  # a text is refused later
        "examples": tuple(getattr(thing, "examples", ())),
        "waivers": getattr(thing, "waivers", {}),
    }


def _options(function: Callable[..., Any], name: str) -> type[Options]:
    """A model of the parameters that have a default which YAML can hold."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception:  # annotations that exist for a type checker alone
        signature = inspect.signature(function)
    fields: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if by_name and parameter.default is not parameter.empty and _is_json(parameter.default):
            known = parameter.annotation in _SIMPLE and isinstance(parameter.default, parameter.annotation)
            fields[parameter.name] = (parameter.annotation if known else Any, parameter.default)
    if private := [key for key in fields if key.startswith("_")]:
        raise PluginError(
            f"function {name!r}: the parameter {listed(private)} cannot be an option; rename it"
        )
    return create_model(f"{name}.Options", __base__=Options, **fields)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
