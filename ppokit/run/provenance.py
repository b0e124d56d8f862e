"""Where a run comes from: versions, plugins, hashes, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("ppokit", "torch", "transformers", "accelerate", "peft", "datasets", "pluggy", "pydantic")


def plugin_files(labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """SHA-256 of the source files of each plugin's package, or of its one module; by package, then by file.

    Args:
        labels: how errors name plugins, which begins with the module: `ppokit_rewards.length, ppokit 0.1.0`.
    """
    hashes: dict[str, dict[str, str]] = {}
    for top in sorted({label.partition(",")[0].partition(":")[0].partition(".")[0] for label in labels}):
        file = getattr(sys.modules.get(top), "__file__", None)
        if file is None:
            continue
        path = Path(file)
        paths = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        hashes[top] = {
            each.relative_to(path.parent).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest()
            for each in paths
        }
    return hashes


def provenance(plugins: Mapping[str, str], hashes: Mapping[str, str], *, longest_text: int) -> dict[str, Any]:
    """The content of a run's provenance.json.

    Args:
        plugins: how errors name the plugin of each component, by recipe key.
        hashes: SHA-256 of the recipe, the prompts and the policy at the start.
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
        "plugin_files": plugin_files(plugins.values()),
        "machine": {"system": platform.platform(), "cpu": platform.processor(), "cores": os.cpu_count()},
        "longest_text": longest_text,
        "hashes": dict(hashes),
    }
