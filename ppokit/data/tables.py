"""The one reader of tables: prompts, ratings, recorded responses and held-out files all come through here.

    read_table    a local file: CSV as people have it, JSON lines, a JSON list, Parquet, text
    load_table    a local file, or a data set on the Hugging Face hub

A run reads the same file more than once: its recipe is checked, it is built, and its engine answers. The last
parsed files are therefore kept, each for as long as its size and its time of change stay the same, until
`clear_parsed`.
"""

from __future__ import annotations

import re
import time
import warnings
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ppokit.data.encoding import decode
from ppokit.data.formats import BadRow, Table, parse_csv, parse_json, parse_text
from ppokit.errors import DataError, PpokitWarning, first_line
from ppokit.messages import listed

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")
SHOWN_BAD_ROWS = 20
OnBadRow = Literal["fail", "skip"]
_SURROGATE = re.compile("[\ud800-\udfff]")
_KEPT = 8  # files
_SETTLED_NS = 2_000_000_000  # a file that changed just now may change again within one tick of its clock
_parsed: OrderedDict[tuple[str, int, int], Table] = OrderedDict()


def is_file(path: str) -> bool:
    """Whether a path names a file, and no folder or data set of the hub, which `datasets` reads."""
    return is_local(path) and not Path(path).expanduser().is_dir()


def is_local(path: str) -> bool:
    """Whether a path means a file or folder here, not a data set on the hub."""
    return (
        path.lower().endswith(SUFFIXES)
        or path.startswith(("./", "../", "/", "~"))
        or Path(path).expanduser().exists()
    )


def read_table(path: str | Path, known: Collection[str] = ()) -> Table:
    """The rows of a local file.

    Args:
        path: a `.csv` or `.tsv` (commas, semicolons or tabs; UTF-8, UTF-16 with its mark, or Windows-1252,
            which is noted), `.jsonl`, `.json`, `.parquet` or `.txt` file.
        known: column names that the caller looks for; they decide between delimiters.

    Raises:
        DataError: the file as a whole cannot be read, or is empty.
    """
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    try:
        if not file.is_file():
            raise DataError(f"there is no file {path}" if not file.exists() else f"{path} is not a file")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path} ends in {suffix or 'nothing'}; expected {listed(SUFFIXES, 'or')}. A spreadsheet "
            "program saves a sheet as CSV UTF-8."
        )
    try:
        stat = file.stat()
        key = (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
        table = _parsed.get(key)
        # Other columns could ask for another delimiter; where one of them is there, it was the right one.
        if table is not None and (not known or {*known} & {*table.header}):
            _parsed.move_to_end(key)
            return replace(table, source=str(path))
        table = _parse(file, suffix, str(path), known)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    if not table.header:
        refuse_bad_rows(table.source, table.bad, 0, "skip")  # JSON lines, none of which is an object
    if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
        _parsed[key] = table
        while len(_parsed) > _KEPT:
            _parsed.popitem(last=False)
    return table


def clear_parsed() -> None:
    """Let go of the parsed files: called once a run has its first rollout."""
    _parsed.clear()


def _parse(file: Path, suffix: str, path: str, known: Collection[str]) -> Table:
    if suffix == ".parquet":
        return _parquet(file, path)
    text, notes = decode(file.read_bytes(), path)
    if suffix in (".csv", ".tsv"):
        table = parse_csv(text, path, known)
    else:
        table = parse_text(text, path) if suffix == ".txt" else parse_json(text, path)
    table.notes[:0] = notes
    return table


def _parquet(file: Path, path: str) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
        columns = [column.to_pylist() for column in table.columns]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a Parquet file: {first_line(error)}") from error
    if not table.num_rows:
        raise DataError(f"{path} is empty; expected at least one row")
    rows = [(number, list(cells)) for number, cells in enumerate(zip(*columns, strict=True), 1)]
    return Table(path, tuple(table.column_names), rows)


def load_table(path: str, split: str | None, known: Collection[str] = ()) -> Table:
    """As `read_table`; what is no file is a data set of the hub, or a folder that `datasets` can read.

    Args:
        split: of a data set; None for "train".

    Raises:
        DataError: it cannot be read, or is empty; or a file is asked for a split.
    """
    if is_file(path):
        if split is not None:
            raise DataError(f"{path} is a file, which has no split {split!r}; leave split out")
        return read_table(path, known)
    import datasets

    datasets.disable_progress_bars()
    try:
        data = datasets.load_dataset(path, split=split or "train")
        header = tuple(data.column_names)
        rows = [(number, [row[name] for name in header]) for number, row in enumerate(data, 1)]
    except Exception as error:  # datasets raises a dozen types, from many libraries
        raise DataError(f"{path} cannot be read: {first_line(error.__cause__ or error)}") from error
    if not rows:
        raise DataError(f"{path} is empty; expected at least one row")
    return Table(path, header, rows)


def undecodable(text: str) -> bool:
    """Whether a text holds what cannot be written as UTF-8: a damaged byte, or half a character."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def refuse_bad_rows(source: str, bad: Sequence[BadRow], good: int, on_bad_row: OnBadRow) -> None:
    """Bad rows end the reading under `fail`, and under `skip` where no row is good.

    Raises:
        DataError: it names the first bad rows.
    """
    if not bad or (on_bad_row == "skip" and good):
        return
    lines = [f"{source}: {len(bad):,} of {len(bad) + good:,} rows cannot be used"]
    lines += [f"  row {row.row}: {row.reason}" for row in bad[:SHOWN_BAD_ROWS]]
    if len(bad) > SHOWN_BAD_ROWS:
        lines.append(f"  and {len(bad) - SHOWN_BAD_ROWS:,} more")
    lines.append(
        "Correct them, or leave them out: on_bad_row: skip in a recipe, --on-bad-row skip here."
        if on_bad_row == "fail"
        else "Without them nothing is left: correct them, or say which column holds what."
    )
    raise DataError("\n".join(lines))


def warn_of_bad_rows(source: str, bad: Sequence[BadRow]) -> None:
    """Count the rows that are left out, and name the first: a run shows no table of them."""
    if bad:
        warnings.warn(
            f"{source}: bad rows left out: {len(bad):,} (on_bad_row: skip), the first is row {bad[0].row}: "
            f"{bad[0].reason}",
            PpokitWarning,
            stacklevel=3,
        )
