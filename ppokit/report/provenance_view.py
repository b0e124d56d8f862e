"""Where runs come from: recipes against their presets and each other, versions, plugins, machine, seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ppokit.plugin.visible_text import visible
from ppokit.report.run_data import RunData, section

LONGEST = 300
_UNITS = {"memory": "memory, GiB", "device_memory": "memory of the device, GiB"}
_NONE: tuple[Any, ...] = (None, "", [])


def flattened(value: Any, path: str = "") -> dict[str, str]:
    """A recipe's keys, as in `rewards[0].weight`, with their values as text."""
    if isinstance(value, Mapping) and value:
        parts = [flattened(own, f"{path}.{key}" if path else str(key)) for key, own in value.items()]
    elif isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
        parts = [flattened(own, f"{path}[{i}]") for i, own in enumerate(value)]
    else:
        return {visible(path, LONGEST): visible(_text(value), LONGEST)}
    return {key: text for part in parts for key, text in part.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def recipe_differences(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """Keys in which the recipes differ, and their value in each."""
    recipes = [flattened(run.recipe) for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    rows = [(key, [recipe.get(key, "—") for recipe in recipes]) for key in keys if key]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def evaluated_on_others(runs: Sequence[RunData]) -> list[str]:
    """On what these runs were not all evaluated alike, as far as they say."""
    words = {"held_out": "held-out prompts or their columns", "texts": "held-out texts"}
    hashes = [section(run.provenance, "hashes") for run in runs]
    known = {name: {own.get(name) for own in hashes if isinstance(own.get(name), str)} for name in words}
    return [words[name] for name, own in known.items() if len(own) > 1]


def preset_differences(run: RunData) -> tuple[str, list[tuple[str, str, str]]]:
    """The preset of a recipe, and the keys of that preset in which it differs.

    A saved recipe holds all keys and no longer says by which preset they were filled in: it is the one with
    the same estimator and losses, of several the one with the fewest differences.

    Returns: an empty name where no preset has them.
    """
    from ppokit.config import presets

    own = flattened(run.recipe)
    nearest: tuple[str, list[tuple[str, str, str]]] | None = None
    for name in presets.names():
        preset = flattened(presets.content(name))
        if _algorithm(preset) != _algorithm(own):
            continue
        differences = [
            (key, text, own.get(key, "—")) for key, text in preset.items() if not _same(text, own.get(key))
        ]
        if nearest is None or len(differences) < len(nearest[1]):
            nearest = (name, differences)
    return nearest or ("", [])


def _algorithm(recipe: Mapping[str, str]) -> dict[str, str]:
    """The estimator and the losses."""
    kinds = ("advantages.", "losses[")
    return {key: use for key, use in recipe.items() if key.startswith(kinds) and key.endswith("use")}


def _same(one: str, other: str | None) -> bool:
    try:
        return other is not None and (one == other or float(one) == float(other))
    except ValueError:
        return False


def facts(run: RunData) -> list[tuple[str, str]]:
    """Versions, command, machine, seed and hashes, a line each."""
    provenance = run.provenance
    lines: list[tuple[str, Any]] = [
        ("folder", run.folder),
        ("started", provenance.get("started")),
        ("command", provenance.get("command")),
        ("seed", section(run.recipe, "run").get("seed")),
        ("python", provenance.get("python")),
        *section(provenance, "versions").items(),
        *((_UNITS.get(name, name), value) for name, value in section(provenance, "machine").items()),
        *((f"hash of {name}", value) for name, value in section(provenance, "hashes").items()),
    ]
    known = [(name, value) for name, value in lines if value not in _NONE]
    return [(visible(str(name), 80), visible(_shown(value), LONGEST)) for name, value in known]


def plugins(run: RunData) -> list[tuple[str, str]]:
    """Which plugin each of the recipe's components is of."""
    known = section(run.provenance, "plugins").items()
    return [(visible(str(key), 80), visible(str(plugin), LONGEST)) for key, plugin in known]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
