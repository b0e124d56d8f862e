"""What is wrong in a file of ratings, and what is worth a look, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppokit.data.formats import BadRow
from ppokit.messages import listed, shorten
from ppokit.ratings.records import RatingTable
from ppokit.ratings.repeats import Repeat, holds_choices, mixed_items, repeats_of, responses_of_items
from ppokit.ratings.splitting import leaks


@dataclass(frozen=True)
class Findings:
    """Problems, which training stumbles over, and remarks, which a person should judge; both by row."""

    problems: tuple[BadRow, ...]
    remarks: tuple[BadRow, ...]


def findings_of(table: RatingTable, scale: tuple[float, float] | None = None) -> Findings:
    """Everything that is worth saying of a table that was read with `on_bad_row="skip"`.

    Problems: rows that cannot be used, ratings outside of the scale, items with several prompts, or several
    responses where most have one. Remarks:
    repeats by one rater, prompts that stand in two splits, a single rating far away from all others, rows
    without a rater or without a response.

    Args:
        scale: smallest and largest rating that there may be; None where that is not known.
    """
    problems = list(table.bad_rows)
    if scale is not None:
        low, high = scale
        problems += [
            BadRow(r.row, f"rating is {r.rating:g}; expected {low:g} to {high:g}")
            for r in table.ratings
            if not low <= r.rating <= high
        ]
    problems += [
        BadRow(
            row,
            f"item {quoted(item)} is also in row {first}, of another prompt; expected one prompt per item",
        )
        for row, first, item in mixed_items(table)
    ]
    if not holds_choices(table):
        named = {problem.row for problem in problems}
        problems += [odd for odd in _odd_responses(table) if odd.row not in named]
    remarks = [BadRow(repeat.rows[1], _repeat(repeat)) for repeat in repeats_of(table)]
    rows = [(row.row, row.prompt, row.split) for row in table.rows]
    remarks += [
        BadRow(row, f"its prompt is in split {mine!r}, and in row {first} in {other!r}")
        for row, first, mine, other in leaks(rows)
    ]
    if scale is None:
        remarks += _far_away(table)
    if any(row.rater for row in table.rows):
        remarks += [BadRow(row.row, "does not say who rated") for row in table.rows if not row.rater]
    remarks += [BadRow(r.row, "its response is empty") for r in table.ratings if not r.response.strip()]
    return Findings(_sorted(problems), _sorted(remarks))


def _odd_responses(table: RatingTable) -> list[BadRow]:
    """Responses that share an item with another, in a file whose items mostly have one."""
    bad = []
    for item, responses in responses_of_items(table).items():
        first, *others = responses.values()
        reason = f"item {quoted(item)} is also in row {first}, of another response; expected one per item"
        bad += [BadRow(row, reason) for row in others]
    return bad


def _repeat(repeat: Repeat) -> str:
    rater, rows = quoted(repeat.rater), listed(map(str, repeat.rows))
    if not repeat.contradicts:
        return f"rater {rater} decides the same in rows {rows}"
    decisions = listed(word if _is_number(word) else quoted(word) for word in repeat.decisions)
    prompt = quoted(repeat.prompt)
    return f"rater {rater} decides differently in rows {rows}: {decisions}, for the prompt {prompt}"


def _far_away(table: RatingTable) -> list[BadRow]:
    """The few ratings that lie farther from all others than those lie from one another: often a slip."""
    if len(table.ratings) < 10:
        return []
    values = np.array([rating.rating for rating in table.ratings])
    different = np.unique(values)
    if len(different) < 3:
        return []
    for far, rest in ((different[-1], different[:-1]), (different[0], different[1:])):
        gap, width = min(abs(far - rest)), rest[-1] - rest[0]
        if gap > width and (values == far).sum() <= max(1, len(values) // 100):
            return [
                BadRow(r.row, f"rating is {far:g}; all others are from {rest[0]:g} to {rest[-1]:g}")
                for r in table.ratings
                if r.rating == far
            ]
    return []


def quoted(text: str) -> str:
    """A text in quotes, short, with nothing in it that a terminal would obey."""
    return repr(shorten(text))


def _is_number(word: str) -> bool:
    return word.lstrip("-")[:1].isdigit() and len(word) < 20


def _sorted(rows: Sequence[BadRow]) -> tuple[BadRow, ...]:
    return tuple(sorted(rows, key=lambda row: row.row))
