"""What is checked: an installed component, an attribute of a module, what a folder offers, or an object."""

from __future__ import annotations

import inspect
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import invalidate_caches
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ppokit.config.components import BuiltComponent, SelectedComponent
from ppokit.config.hooks import METHOD, has_method
from ppokit.config.registry import PluginRegistry
from ppokit.config.settings import CHOSEN
from ppokit.errors import PluginError
from ppokit.kinds import HOOK_BY_KIND, PROJECT
from ppokit.messages import listed, suggest
from ppokit.plugin.examples import Example
from ppokit.plugin.importing import import_attribute
from ppokit.plugin.protocols import BuildContext, Component
from ppokit.testing.process_state import import_what_runs_do, watched

_PARAMETERS = {
    "responses": "rewards",
    "rewards": "advantages",
    "inputs": "losses",
    "request": "rollout",
    "view": "evaluators",
}
"""What tells of a function which kind it is."""


@dataclass(frozen=True)
class Subject:
    """A component and what it is checked with.

    Attributes:
        kind: `rewards`, `advantages`, `losses`, `rollout`, `evaluators` or `observers`.
        use: what a recipe would name.
        component: what the plugin offers.
        label: how errors name its plugin.
        options: keys beside `use`; of its first example, where none are given.
        given: those that were given; an example's own go before them.
        row: columns of the data set that it reads, the same in every row.
        seconds: that a call on twelve short responses may take.
        target: what finds it again in another process; the component itself, if not given.
        disabled: plugins that the target does not mean.
    """

    kind: str
    use: str
    component: Component
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 1.0
    target: str | Path | Component | None = None
    disabled: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`rewards.politeness`."""
        return f"{self.kind}.{self.component.name}"

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"{self.kind} {self.component.name!r} (plugin {self.label})"

    @property
    def examples(self) -> tuple[Example, ...]:
        return tuple(self.component.examples)

    def validated(self, **changes: Any) -> BaseModel:
        """Its options, with changes.

        Raises:
            ValidationError: they are not valid.
        """
        return self.component.options.model_validate({**self.options, **changes})

    def request(self) -> dict[str, Any]:
        """Its name, and arguments of `find` that find it in another process."""
        return {
            "name": self.name,
            "target": self.component if self.target is None else self.target,
            "kind": self.kind,
            "options": dict(self.options),
            "row": dict(self.row),
            "seconds": self.seconds,
            "disabled": self.disabled,
        }

    def build(self, *, rank: int = 0) -> BuiltComponent:
        """Its object, as a run would build it; as process `rank` of two, where it is not the first.

        Raises:
            PluginError: the options are not enough, or building failed.
        """
        try:
            options = self.validated()
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise PluginError(
                f"{self.where}: {key or 'its options'}: {first['msg'].lower()}; give the options to "
                "check it with"
            ) from error
        settings = CHOSEN[self.kind].model_validate({"use": self.component.name})
        selected = SelectedComponent(
            self.kind,
            self.kind,
            self.component.name,
            settings,
            self.component,
            options,
            self.label,
            self.where,
        )
        on_main = self.kind == "observers" or self.component.runs_on == "main"
        beside = self.kind == "rewards" and self.component.is_async(options)
        return selected.build(build_context(0 if on_main else rank, has_base=not beside))


def build_context(rank: int = 0, *, has_base: bool = True) -> BuildContext:
    """As of a run on the CPU in float32."""
    import torch

    from ppokit.testing.fakes import FakeBase, tokenizer

    return BuildContext(
        device=torch.device("cpu"),
        dtype=torch.float32,
        seed=0,
        base=FakeBase() if has_base else None,
        tokenizer=tokenizer(),
        rank=rank,
        processes=2 if rank else 1,
    )


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
