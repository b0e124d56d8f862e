"""The log of a rating session: what was confirmed is kept, whatever befalls the process or the disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppokit.errors import DataError
from ppokit.ratings.page import log as log_module
from ppokit.ratings.page.log import Log, NotSavedError

FIRST = {"kind": "skip", "key": "a", "rater": "ana", "item": "i"}
SECOND = {"kind": "skip", "key": "b", "rater": "Zoë \u2028", "item": "i"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "ratings.log.jsonl"


def kept(path: Path) -> list[dict[str, Any]]:
    """What another process would find."""
    log = Log(path)
    log.close()
    return [{key: value for key, value in record.items() if key != "at"} for record in log.records]


def write(path: Path, *records: dict[str, Any]) -> None:
    log = Log(path)
    log.append(*records)
    log.close()


def test_what_is_appended_is_found_again(path: Path) -> None:
    write(path, FIRST)
    write(path, SECOND, FIRST)
    assert kept(path) == [FIRST, SECOND, FIRST]
    assert all(line.isascii() for line in path.read_bytes().splitlines())


def test_it_is_on_the_disk_before_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path)
    synced: list[int] = []
    monkeypatch.setattr(log_module.os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    log.append(FIRST)
    assert synced == [path.stat().st_size]
    assert synced[0] > 0
    log.close()


@settings(max_examples=60, deadline=None)  # a disk may take its time
@given(cut=st.integers(0, 200))
def test_a_line_that_a_kill_tore_is_cut_off(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cut anywhere, the log holds exactly the lines that are whole, and goes on after them."""
    path = tmp_path_factory.mktemp("torn") / "x.log.jsonl"
    write(path, FIRST, SECOND)
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = [FIRST, SECOND][: data.count(b"\n")]
    assert kept(path) == whole
    write(path, FIRST)
    assert kept(path) == [*whole, FIRST]


def test_a_broken_line_is_named_and_nothing_is_changed(path: Path) -> None:
    write(path, FIRST)
    for broken in (b"{no\n", b"[1]\n", b'{"key": 1}\n', b"\xff\n", b"\n"):
        data = path.read_bytes().splitlines(keepends=True)[0] + broken
        path.write_bytes(data + b'{"kind": "skip"')
        with pytest.raises(DataError, match=r"ratings.log.jsonl line 2 is broken"):
            Log(path)
        assert path.read_bytes().startswith(data)


@pytest.mark.parametrize("written", [0, 1, 30])
def test_a_full_disk(path: Path, written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some bytes fit, the rest do not: the caller is told, and later lines stand after the last whole one."""
    log = Log(path)
    log.append(FIRST)
    real, calls = os.write, 0

    def full(file: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 1 and written:
            return real(file, data[:written])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "write", full)
        with pytest.raises(NotSavedError, match="No space left"):
            log.append(SECOND)
    log.append({**FIRST, "key": "c"})
    log.close()
    assert kept(path) == [FIRST, {**FIRST, "key": "c"}]


def test_a_disk_that_fails_to_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line may be on the disk or not; it was not confirmed, and is taken back."""
    log = Log(path)

    def failing(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "fsync", failing)
        with pytest.raises(NotSavedError, match="Input/output error"):
            log.append(SECOND)
    log.append(FIRST)
    log.close()
    assert kept(path) == [FIRST]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_really_full(path: Path) -> None:
    log = Log(path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file)
    with pytest.raises(NotSavedError, match="No space left"):
        log.append(FIRST)
    os.close(full)
    log.close()


def test_two_processes_do_not_write_one_log(path: Path) -> None:
    code = (
        "import sys; from ppokit.ratings.page.log import Log\n"
        "from pathlib import Path\n"
        "log = Log(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(DataError, match="is in use: another `ppokit rate` writes it"):
            Log(path)
        other.kill()
    write(path, FIRST)  # the system takes the lock from a killed process
    assert kept(path) == [FIRST]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be opened"):
        Log(tmp_path / "file" / "x.log.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        Log(tmp_path / "folder")


def test_times_are_utc(path: Path) -> None:
    write(path, FIRST)
    assert json.loads(path.read_text())["at"].endswith("+00:00")
