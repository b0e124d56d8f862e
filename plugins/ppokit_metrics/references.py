"""What responses are compared with: one column of the data set, or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from ppokit.plugin import CheckContext
from ppokit_metrics.loading import trial

Name = Annotated[str, Field(min_length=1)]
Reference = Name | Annotated[list[Name], Field(min_length=1)]


def columns_of(reference: str | list[str] | None) -> list[str]:
    """The columns that an option names."""
    return [reference] if isinstance(reference, str) else reference or []


def reference_of(row: Mapping[str, Any], reference: str | list[str]) -> Any:
    """The cell of one column, or the list of those of several that hold something; None where none does."""
    if isinstance(reference, str):
        return row[reference]
    return [row[column] for column in reference if row[column] is not None] or None


def reference_problems(
    context: CheckContext,
    reference: str | list[str],
    metrics: list[str],
    config: str | None,
    arguments: Mapping[str, Any],
    *,
    of: str,
    per_response: bool,
) -> Iterator[str]:
    """What is wrong with references that are known before a run: rows without one, and what metrics refuse.

    Args:
        of: what the columns are of, in words.
        per_response: whether each response is to have a number.
    """
    columns = columns_of(reference)
    if missing := list(context.without_column("reference", *columns, of=of)):
        yield from missing
        return
    cells = [context.cells(column) for column in columns]
    numbers = [number for number, _ in cells[0]]
    rows = [
        {column: cell for column, (_, cell) in zip(columns, row, strict=True)}
        for row in zip(*cells, strict=True)
    ]
    references = [reference_of(row, reference) for row in rows]
    empty = [number for number, own in zip(numbers, references, strict=True) if own is None]
    if empty:
        yield (
            f"reference: {len(empty)} of the {len(numbers)} rows of the {of} have nothing in {reference!r}, "
            f"the first of them row {empty[0]}; fill them in, or leave these rows out"
        )
    known = [own for own in references if own is not None]
    for name in metrics if known else []:
        yield from trial(name, config, arguments, known, per_response=per_response)
