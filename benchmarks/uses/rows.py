"""Rows of prompts: read from ../shared/data, held out or trained on, and written for a recipe."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uses import REPOSITORY

SHARED = REPOSITORY.parent / "shared" / "data"
TRAINED = 120
HELD_OUT = 100  # prompts, at most
SUGGESTED = 300  # where a suggestion is a few tokens long
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """The rows of a file of ../shared/data/prompts."""
    return read_lines(SHARED / "prompts" / f"{name}.jsonl")


def read_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Each prompt once."""
    return list({row["prompt"]: row for row in rows}.values())


def halves(rows: Iterable[Row], most: int = HELD_OUT) -> tuple[list[Row], list[Row]]:
    """Of each prompt's row, the first, `most` at most, that are held out, and the next that are trained on.

    None of these has a held-out row's reference.
    """
    own = distinct(rows)
    held_out, others = own[:most], own[most:]
    known = [row.get("reference") for row in held_out]
    free = [row for row in others if not row.get("reference") or row["reference"] not in known]
    return held_out, free[:TRAINED]


def shuffled(text: str) -> str:
    """A key that sorts texts in no order of theirs."""
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_csv(path: Path) -> list[tuple[str, ...]]:
    """The rows below the header."""
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path
