"""Files and folders that are either whole or not there: written beside, synced to the disk, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which then takes the place of `path`; after an error nothing has changed.

    Raises:
        OSError: it cannot be written.
    """
    tmp_path = path.with_name(f".{path.name}.writing")
    try:
        yield tmp_path
        sync(tmp_path)
        tmp_path.replace(path)
        sync(path.parent)
    finally:
        tmp_path.unlink(missing_ok=True)  # on a full disk it would keep it full


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which then takes the place of `path`; after an error nothing has changed.

    Raises:
        OSError: it cannot be written.
    """
    tmp_path = path.with_name(f".{path.name}.writing")
    shutil.rmtree(tmp_path, ignore_errors=True)
    tmp_path.mkdir(parents=True)
    try:
        yield tmp_path
        for file in sorted(tmp_path.rglob("*")):
            sync(file)
        sync(tmp_path)
        if path.exists():
            shutil.rmtree(path)
        tmp_path.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Put UTF-8 text into a file, whole or not at all."""
    with replacing(path) as tmp_path:
        tmp_path.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk; Windows cannot sync folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
