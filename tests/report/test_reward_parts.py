"""What each reward adds to the whole reward, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppokit.report.page import report_page
from ppokit.report.run_data import read_run
from report_runs import data_of, samples, write_metrics, write_recipe, write_samples

GATE = {"reward": "judge", "above": 0.5, "otherwise": -1.0}


def parts_of(folder: Path, rewards: list[dict[str, Any]], totals: list[float], **scores: list[Any]) -> Any:
    """Of a step's responses: what their rewards add, in the order of their names."""
    columns = samples(1, [totals])
    for name, own in scores.items():
        columns[f"reward/{name}"] = own
        columns[f"outcome/{name}"] = ["failed" if score is None else "scored" for score in own]
    write_samples(folder, 1, columns)
    write_metrics(folder, [{"step": 1, "reward/mean": 0.5}])
    write_recipe(folder, 1, rewards=rewards)
    data = data_of(report_page([read_run(folder)]))
    return [sample.get("c") for sample in sorted(data["samples"], key=lambda sample: sample["i"])]


@pytest.mark.parametrize(
    ("settings", "totals", "other", "expected"),
    [
        ({}, [2.75, 0.7], [0.5, 0.25], [[2.5, 0.25], [0.575, 0.125]]),
        ({"clip": [0.0, 0.3]}, [2.65, 0.7], [0.5, 0.25], [[2.5, 0.15], [0.575, 0.125]]),
        ({"gate": GATE}, [2.75, 0.075], [0.5, 0.25], [[2.5, 0.25], [0.575, -0.5]]),
        ({"scale": "batch"}, [3.0, 0.7], [0.5, 0.25], [[2.5, 0.5], [0.575, 0.125]]),
        ({"on_failure": "impute"}, [2.75, 0.7], [0.5, None], [[2.5, 0.25], [0.575, 0.125]]),
        ({}, [2.75, 9.0], [0.5, 0.25], [[2.5, 0.25], [None, None]]),
    ],
    ids=["weights", "clip", "gate", "scale", "imputed", "another recipe's"],
)
def test_parts_add_up(
    tmp_path: Path,
    settings: dict[str, Any],
    totals: list[float],
    other: list[float | None],
    expected: list[list[float | None]],
) -> None:
    """Judge's scores are 1 and 0.23, at a weight of 2.5; the other's weight is 0.5."""
    rewards = [{"use": "judge", "weight": 2.5}, {"use": "mine:other", "weight": 0.5, **settings}]
    result = parts_of(tmp_path, rewards, totals, judge=[1.0, 0.23], other=other)
    assert result == [pytest.approx(own) if None not in own else own for own in expected]


def test_without_the_recipe_they_are_unknown(tmp_path: Path) -> None:
    assert parts_of(tmp_path, [{"use": "another"}], [1.0, 0.5], judge=[1.0, 0.5]) == [None, None]
