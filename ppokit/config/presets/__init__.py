"""Presets: an algorithm's ordinary keys under one name, `preset: grpo`, which the recipe can override.

Each is a YAML file beside this module. A mapping of the recipe's is merged into the preset's key by key,
unless it chooses another component with `use`, which replaces the whole; a list replaces the preset's.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from ppokit.config import yaml_file
from ppokit.config.yaml_file import Document, join, origin
from ppokit.messages import listed, shown, suggest


def names() -> list[str]:
    """All presets."""
    files_here = (file.name for file in files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in files_here if name.endswith(".yaml"))


def content(name: str) -> dict[str, Any]:
    """The keys of a preset, as plain data."""
    return _read(name).data


def _read(name: str) -> Document:
    return yaml_file.parse((files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"))


def expand(document: Document) -> None:
    """Replace the document's key `preset` by the keys that it stands for.

    They stand where `preset` stands, for the messages about them.
    """
    if "preset" not in document.data:
        return
    name = document.data.pop("preset")
    if not isinstance(name, str) or name not in names():
        hint = suggest(name, names()) if isinstance(name, str) else ""
        document.report("preset", f"got {shown(name)}; expected {listed(names(), 'or')}{hint}")
        return
    preset = _read(name)
    override, line = origin("preset", document.lines, document.overrides)
    for key, value in preset.data.items():
        own = document.data.get(key)
        if key not in document.data:
            document.data[key] = value
            new = [key, *_below(key, value)]
        elif isinstance(own, dict) and own.get("use", value.get("use")) == value.get("use"):
            document.data[key] = {**value, **own}
            new = [join(key, part) for part in value if part not in own]
        else:
            continue
        for new_key in new:
            if override is not None:
                document.overrides[new_key] = override
            elif line is not None:
                document.lines[new_key] = line


def _below(key: str, value: Any) -> list[str]:
    """The keys under a key."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    keys = []
    for part, inner in parts:
        keys += [join(key, part), *_below(join(key, part), inner)]
    return keys
