"""Where a run comes from: versions, plugins, hashes, machine."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ppokit.kinds import PROJECT

_MOST_FILES = 1000
_PACKAGES = ("ppokit", "torch", "transformers", "accelerate", "peft", "datasets", "pluggy", "pydantic")


def plugin_files(
    labels: Iterable[str], imports: Mapping[str, Path | None] = MappingProxyType({})
) -> dict[str, dict[str, str]]:
    """SHA-256 of the source files of each plugin's package, or of its one module; by package, then by file.

    What else a plugin's distribution has installed is among them: a thousand files of it at most.

    Args:
        labels: how errors name plugins, which begins with the module: `ppokit_rewards.length, ppokit 0.1.0`.
        imports: code that options name: modules, and files that are none.
    """
    hashes: dict[str, dict[str, str]] = {}
    labels = list(labels)
    modules = {label.partition(",")[0].partition(":")[0] for label in labels}
    modules |= {name for name, file in imports.items() if file is None}
    for name, path in sorted(filter(None, map(_package, modules))):
        hashes[name] = _hashes(path, whole=path.name == "__init__.py")
    for name in sorted({label.partition(", ")[2].rpartition(" ")[0] for label in labels} - {"", PROJECT}):
        for package, inner, path in _installed(name):
            hashes.setdefault(package, {}).setdefault(inner, _hash(path))
    for name, file in imports.items():
        if file is not None and file.is_file():
            hashes[name] = _hashes(file, whole=file.stem == file.resolve().parent.name)
    return hashes


def _package(module: str) -> tuple[str, Path] | None:
    """The outermost package of a module that has a file of its own, as a namespace has not, and that file."""
    parts = module.split(".")
    for name in (".".join(parts[: n + 1]) for n in range(len(parts))):
        if (file := getattr(sys.modules.get(name), "__file__", None)) is not None:
            return name, Path(file)
    return None


def _installed(name: str) -> Iterator[tuple[str, str, Path]]:
    """Source files of a distribution: the package, the file in it, and where that is.

    Nothing where there is no such distribution, as of a plugin that is no package.
    """
    try:
        files = distribution(name).files or []
    except (PackageNotFoundError, ValueError):
        return
    sources = [f for f in files if f.suffix == ".py" and not f.parts[0].startswith(("..", "__editable__"))]
    for file in sorted(sources)[:_MOST_FILES]:
        path = Path(str(file.locate()))
        if path.is_file():
            package, *inner = file.parts
            yield package.removesuffix(".py"), "/".join(inner) or package, path


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hashes(path: Path, *, whole: bool) -> dict[str, str]:
    """Of a file, or of all beside and below it."""
    return {
        each.relative_to(path.parent).as_posix(): _hash(each)
        for each in (sorted(path.parent.rglob("*.py")) if whole else [path])
    }


def data_hashes(**contents: Any) -> dict[str, str]:
    """SHA-256 of each content by its name: of text as it is, of other data as JSON; None has none."""
    return {
        name: hashlib.sha256(_text(content).encode()).hexdigest()
        for name, content in contents.items()
        if content is not None
    }


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)


def provenance(
    plugins: Mapping[str, str],
    imports: Mapping[str, Path | None],
    hashes: Mapping[str, str],
    *,
    machine: Mapping[str, Any],
    longest_text: int,
) -> dict[str, Any]:
    """The content of a run's provenance.json.

    Args:
        plugins: how errors name the plugin of each component, by recipe key.
        imports: as of `plugin_files`.
        hashes: SHA-256 of the recipe, the prompts, what is held out, and the policy at the start.
        machine: what it runs on.
        longest_text: tokens of the longest prompt and its response.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    with suppress(PackageNotFoundError):  # of an extra: it computes a base in 4 bits
        versions["bitsandbytes"] = version("bitsandbytes")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": versions,
        "plugins": dict(plugins),
        "plugin_files": plugin_files(plugins.values(), imports),
        "machine": dict(machine),
        "longest_text": longest_text,
        "hashes": dict(hashes),
    }
