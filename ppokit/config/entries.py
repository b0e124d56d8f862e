"""Entry-point metadata of the group `ppokit`: what is installed, read without importing a plugin."""

from __future__ import annotations

import ast
import importlib.util
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Literal

from ppokit.kinds import HOOK_BY_KIND, PROJECT
from ppokit.messages import suggest

State = Literal["not imported yet", "ok", "shadowed", "disabled", "duplicate", "broken", "invalid"]


@dataclass(frozen=True)
class Entry:
    """One entry point.

    Attributes:
        kind, name: what it announces: `rewards.sentiment` is the kind `rewards`, the name `sentiment`.
        module: what to import for it.
        distribution, version: what was installed; `version` is empty where it is not known.
        summary: first line of the module's docstring; empty where its source is not found.
        state: `not imported yet`, `ok` (imported, and in order), `shadowed` (a built-in has the name, so that
            a recipe must say `name@distribution`), `disabled` by the user, `duplicate` (several distributions
            offer the name, none of them ppokit), `broken` (import or hook failed), `invalid` (no such kind,
            no module).
        reason: of any other state than the first two: why.
    """

    kind: str
    name: str
    module: str
    distribution: str
    version: str = ""
    summary: str = ""
    state: State = "not imported yet"
    reason: str = ""

    @property
    def builtin(self) -> bool:
        """Whether ppokit itself ships it."""
        return normalise(self.distribution) == PROJECT

    @property
    def source(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def label(self) -> str:
        """How errors name the plugin: `ppokit_rewards.sentiment, ppokit 0.1.0`."""
        return f"{self.module}, {self.source}"

    @property
    def use(self) -> str:
        """What names this entry and no other in a recipe: `sentiment@ppokit`."""
        return f"{self.name}@{self.distribution}"


def installed() -> Iterable[EntryPoint]:
    """The environment's entry points."""
    return entry_points(group=PROJECT)


def normalise(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def read(points: Iterable[EntryPoint]) -> list[Entry]:
    """Entries by kind and name, each distribution's once."""
    entries: dict[tuple[str, str, str], Entry] = {}
    identity: dict[int, tuple[str, str]] = {}  # reading a distribution's metadata parses its README
    for point in points:
        dist = point.dist
        if id(dist) not in identity:
            identity[id(dist)] = _identity(dist)
        entry = _parse(point, *identity[id(dist)])
        # An editable install beside a build folder lists one distribution twice.
        entries.setdefault((point.name, point.value, normalise(entry.distribution)), entry)
    return sorted(entries.values(), key=lambda e: (e.kind, e.name, e.distribution, e.module))


def _identity(distribution: Distribution | None) -> tuple[str, str]:
    """Name and version; "unknown" where its metadata is not there, or damaged, as of half an install."""
    try:
        name, version = (None, None) if distribution is None else (distribution.name, distribution.version)
    except Exception:  # another one in each version of Python
        name, version = None, None
    return name or "unknown", version or ""


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


def summary(module: str) -> str:
    """First line of a module's docstring, from its source; empty where there is none to be found."""
    source = _find_source(module)
    if source is None:
        return ""
    skipped = (tokenize.ENCODING, tokenize.COMMENT, tokenize.NL)
    try:
        with source.open("rb") as file:  # no more than the docstring is read: there may be hundreds
            first = next(token for token in tokenize.tokenize(file.readline) if token.type not in skipped)
        docstring = ast.literal_eval(first.string) if first.type == tokenize.STRING else ""
    except (OSError, SyntaxError, ValueError, tokenize.TokenError, StopIteration):
        return ""
    return docstring.strip().partition("\n")[0].rstrip() if isinstance(docstring, str) else ""


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
    except Exception:  # a third party's finder may raise anything, and the list must still appear
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)
