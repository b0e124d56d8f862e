"""What a target names: what is installed, an attribute of a module, what a folder offers, or an object."""

from __future__ import annotations

import inspect
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import invalidate_caches
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from ppokit.config.hooks import METHOD, has_method
from ppokit.config.registry import PluginRegistry
from ppokit.errors import PluginError
from ppokit.kinds import HOOK_BY_KIND, PROJECT
from ppokit.messages import listed, suggest
from ppokit.plugin.examples import Example
from ppokit.plugin.importing import import_attribute
from ppokit.plugin.protocols import Component
from ppokit.testing.process_state import import_what_runs_do, watched
from ppokit.testing.subject import Subject

_PARAMETERS = {
    "responses": "rewards",
    "rewards": "advantages",
    "inputs": "losses",
    "request": "rollout",
    "view": "evaluators",
}
"""What tells of a function which kind it is."""


def find(
    target: str | Path | Component | Callable[..., Any],
    kind: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    row: Mapping[str, Any] | None = None,
    seconds: float = 1.0,
    disabled: Sequence[str] = (),
) -> list[Subject]:
    """What a target names.

    Args:
        target: `name`, `kind.name` or `name@distribution` of an installed component; `module:attribute`; the
            folder of a distribution, of which all is meant; or a `Component`, a class or a function.
        kind: where the target does not tell.
        options, row: see `Subject`; those of its first example, if not given.
        seconds, disabled: see `Subject`.

    What importing it changes of the process is a fault that the checks will tell of.

    Raises:
        PluginError: it names nothing, or what it names is broken.
    """
    import_what_runs_do()
    wheres: list[str] = []
    with watched(wheres):
        subjects = [
            _subject(*each, options, row, seconds, tuple(disabled))
            for each in _components(target, kind, disabled)
        ]
        wheres += [subject.where for subject in subjects]
    return subjects


def _components(
    target: str | Path | Component | Callable[..., Any], kind: str | None, disabled: Sequence[str]
) -> list[tuple[str, str, Component, str, str | Path | Component]]:
    """Of each: its kind, what a recipe would name, what its plugin offers, its label, what finds it again."""
    if isinstance(target, Path) or (isinstance(target, str) and Path(target).is_dir()):
        return [(*each, Path(target)) for each in _of_folder(Path(target))]
    if isinstance(target, Component):
        if kind is None:
            raise PluginError(f"the component {target.name!r} does not tell its kind; expected kind=")
        return [(kind, target.name, target, "in this process", target)]
    path = target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
    return [(*_named(path, kind, PluginRegistry(disabled)), path)]


def _subject(
    kind: str,
    use: str,
    component: Component,
    label: str,
    target: str | Path | Component,
    options: Mapping[str, Any] | None,
    row: Mapping[str, Any] | None,
    seconds: float,
    disabled: tuple[str, ...],
) -> Subject:
    first = next(iter(component.examples), Example(()))
    return Subject(
        kind,
        use,
        component,
        label,
        first.options if options is None else options,
        options or {},
        first.row if row is None else row,
        seconds,
        target,
        disabled,
    )


def _named(target: str, kind: str | None, registry: PluginRegistry) -> tuple[str, str, Component, str]:
    if ":" in target:
        kind = kind or kind_of(import_attribute(target), target)
        return (kind, target, *registry.component(kind, target))
    head, dot, name = target.partition(".")
    if dot and head in HOOK_BY_KIND:
        kind, target = head, name
    if kind is None:
        bare = target.partition("@")[0]
        known = {one: {entry.name for entry in registry.entries_of(one)} for one in HOOK_BY_KIND}
        kinds = [one for one, names in known.items() if bare in names]
        if len(kinds) > 1:
            choices = listed((f"{one}.{target}" for one in kinds), "or")
            raise PluginError(f"{target!r} is the name of several components; expected {choices}")
        if not kinds:
            raise PluginError(
                f"{target!r}: nothing installed has this name, and there is no such folder"
                f"{suggest(target, set().union(*known.values())) or ';'} expected a name of ppokit "
                "plugins list, "
                "module:attribute, or a distribution's folder"
            )
        kind = kinds[0]
    return (kind, target, *registry.component(kind, target))


def kind_of(thing: Any, path: str) -> str:
    """The kind of a component's class, or of a function, by its methods or parameters.

    Raises:
        PluginError: they do not tell.
    """
    if inspect.isfunction(thing):
        names = inspect.signature(thing).parameters
        kinds = [kind for parameter, kind in _PARAMETERS.items() if parameter in names]
    elif isinstance(thing, Component):
        kinds = kind_of(thing.options, path).split() if thing.build is Component.build else []
    else:
        kinds = [kind for kind in METHOD if has_method(kind, thing)]
        if not kinds and any(name.startswith("on_") for name in dir(thing)):
            kinds = ["observers"]
    if len(kinds) != 1:
        choices = listed(HOOK_BY_KIND, "or")
        raise PluginError(f"{path!r} does not tell its kind; give --kind (kind= of conformance): {choices}")
    return kinds[0]


def _of_folder(folder: Path) -> list[tuple[str, str, Component, str]]:
    """All that the pyproject.toml of a folder announces, imported from that folder."""
    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PluginError(
            f"{folder}: there is no pyproject.toml in it; expected a distribution's folder"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginError(f"{file} is no TOML: {error}") from error
    points: Any = project
    for key in ("project", "entry-points", PROJECT):
        points = points.get(key) if isinstance(points, dict) else None
    expected = (
        f"expected [project.entry-points.{PROJECT}] with lines such as "
        '"rewards.politeness" = "my_module", in quotes'
    )
    if not points or not isinstance(points, dict):
        raise PluginError(f"{file} announces no component; {expected}")
    for name, value in points.items():
        if not isinstance(value, str):
            raise PluginError(f"{file}: the entry point {name!r} is {value!r:.60}; {expected}")
    for root in (folder / "src", folder):
        if root.is_dir():
            sys.path.insert(0, str(root.resolve()))
    invalidate_caches()
    registry = PluginRegistry(
        entry_points=[EntryPoint(name, value, PROJECT) for name, value in points.items()]
    )
    components = []
    for entry in registry.entries():
        if entry.state == "invalid":
            raise PluginError(f"{file}: {entry.reason}")
        component, _ = registry.component(entry.kind, entry.name)
        components.append((entry.kind, entry.name, component, f"{entry.module}, {folder}"))
    return components
