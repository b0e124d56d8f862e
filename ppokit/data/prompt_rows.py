"""The rows of a data set of prompts that a run can use."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppokit.data.cell_types import CellType, read_cell
from ppokit.data.formats import BadRow, Table
from ppokit.data.tables import load_table, refuse_bad_rows, undecodable, warn_of_bad_rows
from ppokit.errors import DataError, PpokitWarning
from ppokit.messages import shorten
from ppokit.plugin.chats import ChatPrompt, read_chat

if TYPE_CHECKING:
    from ppokit.config.prompt_settings import HeldOutPromptSettings, PromptFileSettings


def read_prompts(settings: PromptFileSettings, *, chat: bool, key: str = "prompts") -> Table:
    """Read the data set; a warning counts the rows that `on_bad_row: skip` leaves out.

    Args:
        chat: whether prompts may be chats.
        key: how errors name the section.

    Raises:
        DataError: it cannot be read, is empty, lacks the column, or has a bad row under `fail`.
    """
    with _named(f"{key}.path"):
        table = load_table(settings.path, settings.split, {settings.column})
    with _named(f"{key}.{key_at_fault(table.header, settings)}"):
        usable = usable_prompts(table, settings, chat=chat)
    warn_of_bad_rows(table.source, usable.bad)
    for note in table.notes:
        warnings.warn(f"{table.source}: {note}", PpokitWarning, stacklevel=2)
    return usable


def key_at_fault(header: Collection[str], settings: PromptFileSettings) -> str:
    """The section's key that names a column which a table lacks; else that of the table itself."""
    if settings.column not in header:
        return "column"
    if settings.tools is not None and settings.tools not in header:
        return "tools"
    return "path" if settings.types.keys() <= set(header) else "types"


def prompt_of(row: Mapping[str, Any], settings: PromptFileSettings) -> str:
    """The prompt of a row of a table that `usable_prompts` made."""
    cell = row[settings.column]
    if isinstance(cell, str):
        return cell
    return read_chat(cell, None if settings.tools is None else row[settings.tools])


def first_prompts(
    table: Table, settings: HeldOutPromptSettings
) -> tuple[list[str], list[dict[str, Any]], list[int]]:
    """The prompts of a table's first rows, as many as the settings take: texts, all columns, row numbers."""
    rows = table.records()[: settings.limit]
    numbers = [number for number, _ in table.rows[: settings.limit]]
    return [prompt_of(row, settings) for row in rows], rows, numbers


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{key}: {error}") from error


def usable_prompts(table: Table, settings: PromptFileSettings, *, chat: bool) -> Table:
    """The rows whose prompt can be asked, chats as lists of messages; with `distinct`, each prompt's first.

    Args:
        chat: whether prompts may be chats.

    Raises:
        DataError: a column is missing, no row is left, or one is bad under `on_bad_row: fail`.
    """
    index = table.index(settings.column)
    tools = None if settings.tools is None else table.index(settings.tools)
    types = {table.index(name): kind for name, kind in settings.types.items()}
    rows: list[tuple[int, list[Any]]] = []
    bad = list(table.bad)
    seen: set[str] = set()
    for number, cells in table.rows:
        fault = _fault(table, cells, index)
        if fault is None and types:
            cells, fault = _typed(table, cells, types)
        if fault is None and chat:
            cells, fault = _chat(table, cells, index, tools)
        elif fault is None and not isinstance(cells[index], str):
            fault = f"{settings.column} is {shorten(repr(cells[index]))}; expected text" + (
                ", or prompts.chat: true for messages" if isinstance(cells[index], list | tuple) else ""
            )
        if fault is not None:
            bad.append(BadRow(number, fault))
            continue
        prompt = str(cells[index])
        if not settings.distinct or prompt not in seen:
            seen.add(prompt)
            rows.append((number, cells))
    bad.sort(key=lambda row: row.row)
    refuse_bad_rows(table.source, bad, len(rows), settings.on_bad_row)
    if not rows:
        raise DataError(f"{table.source} has a header but no rows; expected at least one prompt")
    return replace(table, rows=rows, bad=bad)


def _chat(table: Table, cells: list[Any], index: int, tools: int | None) -> tuple[list[Any], str | None]:
    """The cells with a chat as its messages and its tools as a list, or what is wrong with them."""
    try:
        own_tools = None if tools is None else cells[tools] or None
        prompt = read_chat(cells[index], own_tools)
    except ValueError as error:
        return cells, f"{table.header[index]} is {shorten(repr(cells[index]))}: {error}"
    if not isinstance(prompt, ChatPrompt):
        return cells, None
    if undecodable(prompt):
        return cells, f"{table.header[index]} holds half a character or a damaged byte; expected UTF-8 text"
    read = list(cells)
    read[index] = prompt.messages
    if tools is not None:
        read[tools] = prompt.tools
    elif prompt.tools is not None:
        read[index] = {"messages": prompt.messages, "tools": prompt.tools}
    return read, None


def _typed(table: Table, cells: list[Any], types: Mapping[int, CellType]) -> tuple[list[Any], str | None]:
    """The cells as their columns' types, or what is wrong with one."""
    typed = list(cells)
    for index, kind in types.items():
        try:
            typed[index] = read_cell(cells[index], kind, decimal_comma=table.decimal_comma)
        except ValueError as error:
            return cells, f"{table.header[index]} is {shorten(repr(cells[index]))}; {error}"
    return typed, None


def _fault(table: Table, cells: list[Any], index: int) -> str | None:
    prompt = cells[index]
    if prompt is None or (table.of_text and not prompt):
        return f"{table.header[index]} is empty; expected text"
    for name, cell in zip(table.header, cells, strict=True):
        if isinstance(cell, str) and undecodable(cell):
            return f"{name} holds half a character or a damaged byte in {cell[:60]!a}; expected UTF-8 text"
    return None
