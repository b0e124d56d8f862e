"""Tables of samples for trackers. What a model wrote stays text, however a tracker draws a cell."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ppokit.plugin import Recorded, Rewards, Rollout, visible

Table = tuple[list[str], list[list[str | float | None]]]
"""Names of the columns, and rows of cells."""

LONGEST = 2000  # characters of a cell
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def training_table(rollout: Rollout, rewards: Rewards, count: int) -> Table:
    """Responses of a step from the best to the worst, evenly between; scores by provider before weighing.

    Args:
        count: rows, at most.
    """
    scores = rewards.scores.where(rewards.scored, rewards.scores.new_tensor(math.nan)).tolist()
    columns = {"score": scores, **{name: own.tolist() for name, own in rewards.breakdown.items()}}
    order = sorted(range(len(rollout)), key=lambda i: (math.isnan(scores[i]), -scores[i]))
    return _table(rollout, columns, _evenly(order, count))


def evaluation_table(record: Recorded, count: int) -> Table:
    """The first responses of an evaluator with the numbers that it recorded of them, or their rewards."""
    columns = {name: list(own) for name, own in record.values.items()}
    if not columns and record.rewards is not None:
        columns = {name: own.tolist() for name, own in record.rewards.breakdown.items()}
    return _table(record.rollout, columns, list(range(len(record.rollout)))[:count])


def _table(rollout: Rollout, columns: dict[str, list[float | None]], rows: Sequence[int]) -> Table:
    cells: list[list[str | float | None]] = [
        [
            visible(rollout.prompts[i], LONGEST),
            visible(rollout.responses[i], LONGEST),
            rollout.outcomes[i],
            *(_finite(own[i]) for own in columns.values()),
        ]
        for i in rows
    ]
    return ["prompt", "response", "outcome", *(visible(name, 100) for name in columns)], cells


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _evenly(items: Sequence[int], count: int) -> list[int]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def as_markdown(table: Table) -> str:
    """For TensorBoard, which draws texts as Markdown: every mark is an entity, so that none is obeyed."""
    columns, rows = table
    lines = [list(map(_cell, columns)), ["---"] * len(columns), *(list(map(_cell, row)) for row in rows)]
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def _cell(cell: str | float | None) -> str:
    if not isinstance(cell, str):
        return "" if cell is None else f"{cell:.4g}".replace("-", "&#45;")
    escaped = _PUNCTUATION.sub(lambda match: f"&#{ord(match[0])};", cell)
    return " ".join(escaped.replace("\n", " &#8629; ").split())


def without_markup(table: Table) -> list[dict[str, str | float | None]]:
    """For Trackio, some versions of which draw cells as Markdown and HTML, and others as text.

    `<` becomes its full-width form, and so does the bracket before a link's address: no element, image or
    link can begin, and a version that draws text shows almost the same.
    """
    columns, rows = table

    def plain(cell: str | float | None) -> str | float | None:
        return cell.replace("<", "＜").replace("](", "］(") if isinstance(cell, str) else cell

    return [{str(plain(name)): plain(cell) for name, cell in zip(columns, row, strict=True)} for row in rows]
