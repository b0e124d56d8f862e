"""What is installed: entry-point metadata of the group `ppokit`, read without importing a plugin.

A plugin's module is imported when a recipe names one of its components, and not before. pluggy's own
entry-point loader is not used: it skips a second distribution's entry of the same name silently.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import pluggy
from pydantic import BaseModel

from ppokit.errors import PluginError
from ppokit.messages import listed, suggest
from ppokit.plugin import hookspecs
from ppokit.plugin.hookspecs import HOOK_BY_KIND, PROJECT
from ppokit.plugin.protocols import Component, Need

State = Literal["ok", "disabled", "duplicate", "broken", "invalid"]


@dataclass(frozen=True)
class Entry:
    """One entry point.

    Attributes:
        kind, name: what it announces: `rewards.sentiment` is the kind `rewards`, the name `sentiment`.
        module: what to import for it.
        distribution, version: what was installed; `version` is empty where it is not known.
        summary: first line of the module's docstring; empty where its source is not found.
        state: `ok` (not imported yet, or imported well), `disabled` by the user, `duplicate` (offered
            more than once), `broken` (import or hook failed), `invalid` (no such kind, no module).
        reason: why the state is not `ok`.
    """

    kind: str
    name: str
    module: str
    distribution: str
    version: str = ""
    summary: str = ""
    state: State = "ok"
    reason: str = ""

    @property
    def source(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def label(self) -> str:
        """How errors name the plugin: `ppokit_rewards.sentiment, ppokit 0.1.0`."""
        return f"{self.module}, {self.source}"


class PluginRegistry:
    """Every installed plugin, by kind and name.

    Args:
        disabled: what `--disable-plugin` names: `kind.name`, `name`, or either with `@distribution`.
        entry_points: read instead of the environment's metadata.

    Raises:
        PluginError: nothing installed has a name in `disabled`.
    """

    def __init__(
        self, disabled: Sequence[str] = (), entry_points: Iterable[EntryPoint] | None = None
    ) -> None:
        self._entries = _read(_installed() if entry_points is None else entry_points)
        self._loaded: dict[tuple[str, str], tuple[Component, str]] = {}
        for word in disabled:
            self._disable(word)
        self._mark_duplicates()

    def entries(self) -> list[Entry]:
        """All of them with summary and state, by kind, then name; imports nothing."""
        return [replace(entry, summary=_summary(entry.module)) for entry in self._entries]

    def names(self, kind: str) -> list[str]:
        """Installed names of a kind, whatever their state (but `invalid`)."""
        return sorted({e.name for e in self._entries if e.kind == kind and e.state != "invalid"})

    def component(self, kind: str, name: str) -> tuple[Component, str]:
        """Import the one plugin that offers this component.

        Returns:
            The component, and how errors name its plugin: `ppokit_rewards.sentiment, ppokit 0.1.0`.

        Raises:
            PluginError: the component is not installed, disabled, offered twice, or broken.
        """
        if (kind, name) not in self._loaded:
            entry = self._choose(kind, name)
            try:
                self._loaded[kind, name] = (_load(entry), entry.label)
            except PluginError as error:
                self._entries[self._entries.index(entry)] = replace(entry, state="broken", reason=str(error))
                raise
        return self._loaded[kind, name]

    def _choose(self, kind: str, name: str) -> Entry:
        if kind not in HOOK_BY_KIND:
            raise PluginError(f"{kind!r} is no kind of plugin; kinds are {listed(HOOK_BY_KIND)}")
        named = [e for e in self._entries if (e.kind, e.name) == (kind, name) and e.state != "invalid"]
        if not named:
            raise PluginError(self._unknown(kind, name))
        allowed = [e for e in named if e.state != "disabled"]
        if not allowed:
            raise PluginError(f"{kind} {name!r} ({named[0].label}) is disabled by --disable-plugin")
        if len(allowed) > 1:
            raise PluginError(allowed[0].reason)
        return allowed[0]

    def _unknown(self, kind: str, name: str) -> str:
        known = self.names(kind)
        installed = ", ".join(known) or "none"
        message = f"no {kind} plugin {name!r} is installed (installed: {installed}){suggest(name, known)}"
        others = [other for other in HOOK_BY_KIND if other != kind and name in self.names(other)]
        if others:
            message += f"; {name!r} is one of the {listed(others)} plugins"
        invalid = [e.reason for e in self._entries if e.state == "invalid" and e.name == name]
        return "; ".join([message, *invalid])

    def _disable(self, word: str) -> None:
        component, _, distribution = word.partition("@")
        hits = [
            i
            for i, entry in enumerate(self._entries)
            if component in (entry.name, f"{entry.kind}.{entry.name}")
            and (not distribution or _normalise(distribution) == _normalise(entry.distribution))
        ]
        if not hits:
            known = {
                spelling
                for e in self._entries
                for short in (e.name, f"{e.kind}.{e.name}")
                for spelling in (short, f"{short}@{e.distribution}")
            }
            names = sorted({f"{e.kind}.{e.name}" for e in self._entries})
            raise PluginError(
                f"--disable-plugin {word}: nothing installed has this name "
                f"(installed: {', '.join(names) or 'nothing'}){suggest(word, known)}"
            )
        for i in hits:
            self._entries[i] = replace(
                self._entries[i], state="disabled", reason=f"blocked by --disable-plugin {word}"
            )

    def _mark_duplicates(self) -> None:
        for i, entry in enumerate(self._entries):
            rivals = [
                e
                for e in self._entries
                if (e.kind, e.name) == (entry.kind, entry.name) and e.state in ("ok", "duplicate")
            ]
            if entry.state == "ok" and len(rivals) > 1:
                self._entries[i] = replace(entry, state="duplicate", reason=_ambiguous(rivals))


def _installed() -> Iterable[EntryPoint]:
    return entry_points(group=PROJECT)


def _normalise(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _read(points: Iterable[EntryPoint]) -> list[Entry]:
    found: dict[tuple[str, str, str], Entry] = {}
    identity: dict[int, tuple[str, str]] = {}  # reading a distribution's metadata parses its README
    for point in points:
        dist = point.dist
        if id(dist) not in identity:
            identity[id(dist)] = (dist.name, dist.version) if dist is not None else ("unknown", "")
        entry = _parse(point, *identity[id(dist)])
        # An editable install beside a build folder lists one distribution twice.
        found.setdefault((point.name, point.value, _normalise(entry.distribution)), entry)
    return sorted(found.values(), key=lambda e: (e.kind, e.name, e.distribution, e.module))


def _parse(point: EntryPoint, distribution: str, version: str) -> Entry:
    kind, dot, name = point.name.partition(".")
    entry = Entry(kind, name, point.value, distribution, version)
    reason = ""
    if not dot or not re.fullmatch(r"\w[\w-]*", name):
        reason = "its name is not of the form <kind>.<component>"
    elif kind not in HOOK_BY_KIND:
        reason = f"{kind!r} is no kind (kinds: {', '.join(HOOK_BY_KIND)}){suggest(kind, HOOK_BY_KIND)}"
    elif not all(part.isidentifier() for part in point.value.split(".")):
        reason = f"its value {point.value!r} is not a module's name"
    if not reason:
        return entry
    return replace(
        entry, state="invalid", reason=f"entry point {point.name!r} of {entry.source} is not used: {reason}"
    )


def _ambiguous(rivals: list[Entry]) -> str:
    first = rivals[0]
    places = listed(f"{e.source} ({e.module})" for e in rivals)
    if len({_normalise(e.distribution) for e in rivals}) == 1:
        advice = "this distribution's own metadata must name it once"
    else:
        choices = listed((f"{e.kind}.{e.name}@{e.distribution}" for e in rivals), "or")
        advice = f"uninstall one, or block one with --disable-plugin {choices}"
    return f"{first.kind} {first.name!r} is offered more than once, by {places}: {advice}"


def _summary(module: str) -> str:
    source = _find_source(module)
    if source is None:
        return ""
    try:
        docstring = ast.get_docstring(ast.parse(source.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return ""
    return docstring.splitlines()[0] if docstring else ""


def _find_source(module: str) -> Path | None:
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for i, _ in enumerate(rest, start=1):
            if spec is None or spec.submodule_search_locations is None:
                return None
            # find_spec on a dotted name imports the parents; PathFinder on their folder does not.
            name = ".".join([top, *rest[:i]])
            spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    except Exception:  # a finder of somebody else's may raise anything, and a list must still appear
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _load(entry: Entry) -> Component:
    who = f"{entry.kind} {entry.name!r} (plugin {entry.label})"
    try:
        module = importlib.import_module(entry.module)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{who} cannot be imported: {_told(error)}") from error
    hook = HOOK_BY_KIND[entry.kind]
    offered = _offered(module, hook, who)
    names = [component.name for component in offered]
    if len(set(names)) < len(names):
        raise PluginError(f"{who}: {hook}() returned a name twice: {', '.join(names)}; expected each once")
    if entry.name not in names:
        raise PluginError(
            f"{who}: {hook}() returned {listed(map(repr, names))}; expected {entry.name!r} among them, "
            f"as its entry point says"
        )
    component = offered[names.index(entry.name)]
    if not (isinstance(component.options, type) and issubclass(component.options, BaseModel)):
        raise PluginError(f"{who}: options is {component.options!r}; expected a subclass of ppokit.Options")
    if unknown := sorted(set(component.needs) - set(get_args(Need))):
        raise PluginError(f"{who}: needs {listed(map(repr, unknown))}; expected {listed(get_args(Need))}")
    return component


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
    try:
        manager.register(module)
        manager.check_pending()
        results: list[Any] = getattr(manager.hook, hook)()
    except Exception as error:
        raise PluginError(f"{who}: {hook}() failed: {_told(error)}") from error
    if not results:
        raise PluginError(f"{who} has no hook {hook}, or it returned None; expected a list of Component")
    if not isinstance(results[0], list) or not all(isinstance(c, Component) for c in results[0]):
        raise PluginError(f"{who}: {hook}() returned {results[0]!r}; expected a list of Component")
    return results[0]


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
