"""Checkpoints that an installed Python package ships as a folder: `package:DISTRIBUTION/FOLDER`."""

from __future__ import annotations

from pathlib import Path

from ppokit.errors import ModelError
from ppokit.models.names import files_of


def located(name: str, subject: str) -> str:
    """Where to load a model from: the folder that a package ships, or the name itself.

    Args:
        name: hub id, folder, or `package:DISTRIBUTION/FOLDER`.
        subject: how an error begins.

    Raises:
        ModelError: there is no such package, or no such folder in it.
    """
    if not name.startswith("package:"):
        return name
    package, _, inside = name.removeprefix("package:").partition("/")
    files = files_of(package, subject)
    folders = {str(f.parent): Path(str(f.locate())).parent for f in files if f.name == "config.json"}
    if inside in folders:
        return str(folders[inside])
    have = ", ".join(sorted(folders)) or "no folder with a config.json"
    raise ModelError(f"{subject}: the package {package!r} ships {have}; expected one of these.")
