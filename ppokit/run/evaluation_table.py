"""The responses that evaluators recorded numbers of, as one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppokit.plugin.evaluating import Recorded


def evaluation_table(records: Sequence[Recorded]) -> Any:
    """A row per response and evaluator; a column per number, null where the evaluator has none of it."""
    import pyarrow as pa

    tables = [
        pa.table(
            {
                "evaluator": [record.evaluator] * len(record.rollout),
                "group": record.rollout.group_ids.tolist(),
                "prompt": record.rollout.prompts,
                "response": record.rollout.responses,
                "row": [json.dumps(dict(row), default=str) for row in record.rollout.rows],
                "outcome": record.rollout.outcomes,
                **{name: pa.array(own, pa.float64()) for name, own in record.values.items()},
            }
        )
        for record in records
    ]
    return pa.concat_tables(tables, promote_options="default")
