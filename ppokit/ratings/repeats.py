"""Items that one rater rated more than once: the same again, or otherwise."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ppokit.ratings.records import RatingTable


@dataclass(frozen=True)
class Repeat:
    """Several rows in which one rater rated one item.

    Attributes:
        rows: their numbers, in order.
        decisions: the rating of each row, or for pairs the beginning of the text that was chosen.
        rater, prompt: whose they are, of which prompt.
        contradicts: whether they differ.
    """

    rows: tuple[int, ...]
    decisions: tuple[str, ...]
    rater: str
    prompt: str
    contradicts: bool


def repeats_of(table: RatingTable) -> list[Repeat]:
    """All of them, in the order of the file; none for rows that do not say who rated."""
    groups: dict[tuple[str, ...], list[tuple[int, str, str]]] = defaultdict(list)
    for rating in table.ratings:
        if rating.rater:
            key = (rating.rater, rating.item, rating.response)
            groups[key].append((rating.row, f"{rating.rating:g}", rating.prompt))
    for pair in table.pairs:
        if pair.rater:
            groups[pair.rater, pair.item].append((pair.row, pair.chosen, pair.prompt))
    return [
        Repeat(
            rows=tuple(row for row, _, _ in group),
            decisions=tuple(decision for _, decision, _ in group),
            rater=rater,
            prompt=group[0][2],
            contradicts=len({decision for _, decision, _ in group}) > 1,
        )
        for (rater, *_), group in groups.items()
        if len(group) > 1
    ]


def responses_of_items(table: RatingTable) -> dict[str, dict[str, int]]:
    """The responses of each item of ratings, each with the first row that holds it."""
    responses: dict[str, dict[str, int]] = defaultdict(dict)
    for rating in table.ratings:
        responses[rating.item].setdefault(rating.response, rating.row)
    return responses


def holds_choices(table: RatingTable) -> bool:
    """Whether it is pairs, or ratings whose items mostly have several responses: a pair in two rows each."""
    if table.pairs:
        return True
    items = responses_of_items(table).values()
    return 2 * sum(len(responses) > 1 for responses in items) > len(items)


def mixed_items(table: RatingTable) -> list[tuple[int, int, str]]:
    """Rows that share an item with an earlier row, but not its prompt: row, earlier row, item.

    An item of several responses to one prompt is no fault: that is how a file holds pairs in two rows.
    """
    seen: dict[str, tuple[int, str]] = {}
    mixed = []
    for row in table.rows:
        first, known = seen.setdefault(row.item, (row.row, row.prompt))
        if known != row.prompt:
            mixed.append((row.row, first, row.item))
    return mixed
