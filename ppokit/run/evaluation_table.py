"""The responses that evaluators recorded numbers of or had scored, as one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppokit.plugin.evaluating import Recorded


_COLUMNS = ("policy", "evaluator", "id", "group", "prompt", "response", "row", "outcome")
_OF_REWARDS = ("outcome/", "reason/", "seconds/")


def is_column(name: str) -> bool:
    """Whether the table has a column of this name that holds no number of an evaluator's."""
    return name in _COLUMNS or name.startswith(_OF_REWARDS)


def evaluation_table(records: Sequence[Recorded]) -> Any:
    """A row per response and evaluator; a column per number, null where the evaluator has none of it."""
    import pyarrow as pa

    from ppokit.run.sample_columns import outcome_columns  # imports torch

    tables = [
        pa.table(
            {
                "evaluator": [record.evaluator] * len(record.rollout),
                "id": record.rollout.ids,
                "group": record.rollout.group_ids.tolist(),
                "prompt": record.rollout.prompts,
                "response": record.rollout.responses,
                "row": [json.dumps(dict(row), default=str) for row in record.rollout.rows],
                "outcome": record.rollout.outcomes,
                **{name: pa.array(own, pa.float64()) for name, own in record.values.items()},
                **({} if record.rewards is None else outcome_columns(record.rewards)),
            }
        )
        for record in records
    ]
    return pa.concat_tables(tables, promote_options="default")
