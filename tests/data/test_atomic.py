"""Files and folders that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppokit.data.atomic import replacing, replacing_folder, write_text


def filled(folder: Path, name: str) -> None:
    with replacing_folder(folder) as tmp_path:
        (tmp_path / name).touch()


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    synced: list[tuple[int, str]] = []

    def record(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, path.read_text()))

    monkeypatch.setattr("ppokit.data.atomic.os.fsync", record)
    write_text(path, "new")
    # The new file while the old one stands, then the folder, which holds the name.
    assert synced == [(path.stat().st_ino, "old"), (tmp_path.stat().st_ino, "new")]


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    filled(tmp_path / "b", "old")

    def fail(written: Path) -> None:
        written.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as tmp:
        fail(tmp)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "b") as tmp:
        fail(tmp / "half")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "a.txt",
        "b",
        "b/old",
    ]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    filled(tmp_path / "b", "old")
    filled(tmp_path / "b", "new")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
