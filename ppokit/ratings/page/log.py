"""The log of a rating session: one JSON object per line, only ever appended to.

`begin`     version, mode, scale: once, first
`item`      id, prompt, responses, sources: before the first line that speaks of the item
`answer`    key, rater, item, value, and in pairs which response stood on the left
`skip`      key, rater, item
`flag`      key, rater, item, on
`undo`      key, rater, of: the key of an answer or a skip that no longer counts

`key` is the page's own name for what was done, so that what is sent twice counts once. `at` is the time, UTC.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ppokit.data.atomic import sync
from ppokit.errors import DataError, PpokitError, first_line

VERSION = 1
Record = Mapping[str, Any]


class NotSavedError(PpokitError):
    """A line could not be written; nothing of it is in the log."""


class Log:
    """A log that is open for appending; no second process can open it.

    Attributes:
        records: its lines when it was opened.

    Raises:
        DataError: it cannot be opened, another process has it open, or a line in it is broken. A last line
            without its end was never confirmed to anyone: it is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Binary, since Windows would otherwise translate line ends.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(path, flags, 0o644)
        except OSError as error:
            raise DataError(f"{path} cannot be opened: {first_line(error)}") from error
        try:
            self._lock()
            data = path.read_bytes()
            self._end = data.rfind(b"\n") + 1
            self.records = _parsed(data[: self._end], path)
            if self._end < len(data):
                os.ftruncate(self._file, self._end)
            sync(path.parent)  # the name of a new file is on the disk only once its folder is
        except BaseException:
            os.close(self._file)
            raise

    def append(self, *records: Record) -> None:
        """Add lines; they are on the disk when this returns.

        Raises:
            NotSavedError: the disk is full or broken; the log is as it was before.
        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        data = "".join(json.dumps({**record, "at": at}) + "\n" for record in records).encode("ascii")
        try:
            if os.fstat(self._file).st_size != self._end:  # what an earlier failure left behind
                os.ftruncate(self._file, self._end)
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            raise NotSavedError(f"{self.path} cannot be written: {first_line(error)}") from error
        self._end += len(data)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._file)

    def _lock(self) -> None:
        if sys.platform == "win32":  # pragma: no cover
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"{self.path} is in use: another `ppokit rate` writes it. Stop it, or give another --out."
            ) from error


def _parsed(data: bytes, path: Path) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "kind" not in record:
                raise ValueError("no record of a rating session")
        except ValueError as error:
            raise DataError(
                f"{path} line {number} is broken: {first_line(error)}. Correct or remove that line; the "
                "others are not touched."
            ) from error
        records.append(record)
    return records
