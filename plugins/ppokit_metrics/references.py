"""What responses are compared with: one column of the data set, or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from ppokit.plugin import CheckContext
from ppokit_metrics.finding import TAKE_LISTS, own_name
from ppokit_metrics.loading import kind_of
from ppokit_metrics.trial import trial

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
    reference: str | list[str] | None,
    metrics: list[str],
    config: str | None,
    arguments: Mapping[str, Any],
    *,
    of: str,
    per_response: bool,
) -> Iterator[str]:
    """What is wrong with references that are known before a run, and with metrics that are on this machine.

    Args:
        reference: the columns; None where the recipe names none.
        of: what has the columns, in words.
        per_response: whether each response is to have a number.
    """
    references: list[Any] | None = None
    if reference is not None:
        problems = [*context.without_column("reference", *columns_of(reference), of=of)]
        references = known_references(context, reference)
        problems = problems or [*_unusable(references, reference, of)]
        if problems:
            yield from problems
            return
    known = None if references is None else [own for _, own in references]
    for name in metrics:
        own_metric = own_name(name)
        if own_metric and config is not None:
            yield f"config: got {config!r}; {name} of ppokit has no configurations, so leave it out"
        lists = own_metric in TAKE_LISTS
        if own_metric and (wrong := [own for own in known or () if not _is_text(own, lists=lists)]):
            yield (
                f"reference: {reference!r} has {repr(wrong[0])[:60]}; {name} compares each response with a "
                f"text{', or a list of texts' if lists else ''}; expected that (numbers become texts by "
                f"types: {{{columns_of(reference)[0]}: text}})"
            )
        elif len(kinds := {kind_of(own): (row, own) for row, own in reversed(references or ())}) > 1:
            first = sorted(kinds.values(), key=lambda known: known[0])
            shown = " and ".join(f"{repr(own)[:60]} in row {row}" for row, own in first[:2])
            yield f"reference: {reference!r} has {shown}; expected one kind in all rows"
            return
        else:
            yield from trial(name, config, arguments, known, per_response=per_response)


def known_references(context: CheckContext, reference: str | list[str]) -> list[tuple[int, Any]]:
    """What each row has in these columns, with its number; empty where that is not known before a run."""
    columns = columns_of(reference)
    cells = [context.cells(column) for column in columns]
    rows = zip(*cells, strict=True)
    return [
        (
            row[0][0],
            reference_of({name: cell for name, (_, cell) in zip(columns, row, strict=True)}, reference),
        )
        for row in rows
    ]


def _unusable(references: list[tuple[int, Any]], reference: str | list[str], of: str) -> Iterator[str]:
    empty = [number for number, own in references if own is None or own == []]
    if empty:
        yield (
            f"reference: {len(empty)} of the {len(references)} rows of the {of} have nothing in "
            f"{reference!r}, the first of them row {empty[0]}; fill them in, or leave these rows out"
        )


def _is_text(reference: Any, *, lists: bool) -> bool:
    if lists and isinstance(reference, list | tuple):
        return all(isinstance(own, str) for own in reference)
    return isinstance(reference, str)
