"""Where a run comes from: versions, plugins, hashes, machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("ppokit", "torch", "transformers", "accelerate", "peft", "datasets", "pluggy", "pydantic")


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
        "machine": {"system": platform.platform(), "cpu": platform.processor(), "cores": os.cpu_count()},
        "longest_text": longest_text,
        "hashes": dict(hashes),
    }
