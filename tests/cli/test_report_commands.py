"""`ppokit report` and `ppokit runs` on folders that are known."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ppokit.cli import app
from report_runs import learning_run, write_metrics, write_recipe


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_page_in_the_runs_folder(tmp_path: Path) -> None:
    run = learning_run(tmp_path / "run")
    result = call("report", run)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == f"report   {run / 'report.html'}"
    assert "provenance.json is not there" in result.stderr
    assert "Reward rose from" in (run / "report.html").read_text()


def test_several_runs_compared(tmp_path: Path) -> None:
    """Runs of one name are told apart, and where their recipes differ is said."""
    first = learning_run(tmp_path / "one" / "seed-0")
    second = learning_run(tmp_path / "two" / "seed-0", rise=0.0, seed=1)
    write_recipe(second, 10, rewards=[{"use": "judge", "weight": 2.5}])
    out = tmp_path / "compared.html"
    result = call("report", first, second, "--out", out)
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "2 runs compared" in page
    for name in ("one/seed-0", "two/seed-0", "rewards[0].weight"):
        assert name in page
    assert page.count("Reward rose from") == 1


@pytest.mark.parametrize("kind", ["missing", "no run"])
def test_what_is_no_run(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    if kind == "no run":
        folder.mkdir()
    result = call("report", folder)
    assert result.exit_code != 0
    assert "run" in result.stderr
    assert "bug" not in result.stderr


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    result = call("report", learning_run(tmp_path / "run"), "--out", tmp_path / "none" / "page.html")
    assert result.exit_code != 0
    assert "cannot be written" in result.stderr


def test_the_list_of_runs(tmp_path: Path) -> None:
    finished = learning_run(tmp_path / "uses" / "a")
    stopped = learning_run(tmp_path / "b")
    write_recipe(stopped, 20, evaluation={"best": "eval/metric/f1"})
    lines = [
        {"step": s, "reward/mean": s / 10, "eval/metric/f1": f} for s, f in ((1, 0.2), (2, 0.6), (3, 0.5))
    ]
    write_metrics(stopped, lines)
    os.utime(stopped / "metrics.jsonl", (1e9, 1e9))
    shutil.rmtree(finished / "rollouts")  # a list needs no samples
    write_recipe(tmp_path / "recipes", 5)  # a recipe is no run
    result = call("runs", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert (first["name"], first["state"], first["step"], first["steps"]) == ("uses/a", "finished", 10, 10)
    assert (second["name"], second["state"], second["step"], second["steps"]) == ("b", "stopped", 3, 20)
    assert [second[f"evaluation_{end}"] for end in ("first", "best", "last")] == [0.2, 0.6, 0.5]
    assert [second["reward_first"], second["reward_last"]] == [0.1, 0.3]
    table = call("runs", tmp_path).stdout
    assert "uses/a" in table
    assert "3/20" in table


def test_the_list_names_each_runs_evaluation_and_a_best_only_where_it_is_known(tmp_path: Path) -> None:
    """A perplexity is better lower; of a number of which the recipe does not say so, no value is the best."""
    lines = [
        {"step": s, "eval/lm/perplexity": p, "eval/lm/hits": 1.0} for s, p in ((0, 9.0), (5, 4.0), (9, 6.0))
    ]
    for name, evaluation in (
        ("lower", {"best": "eval/lm/perplexity", "best_is": "lowest"}),
        ("unknown", {}),
    ):
        write_metrics(tmp_path / name, lines)
        write_recipe(tmp_path / name, 9, evaluation=evaluation)
    write_metrics(tmp_path / "begun", lines[:1])
    write_metrics(tmp_path / "none", [{"step": 1, "reward/mean": 0.5}])
    known = {run["name"]: run for run in json.loads(call("runs", tmp_path, "--json").stdout)}
    ends = ("first", "best", "last")
    assert [known["lower"][f"evaluation_{end}"] for end in ends] == [9, 4, 6]
    assert [known["unknown"][f"evaluation_{end}"] for end in ends] == [9, None, 6]
    assert [known["begun"][f"evaluation_{end}"] for end in ends] == [9, None, None]
    rows = {row.split()[0]: row.split() for row in call("runs", tmp_path).stdout.splitlines()[1:]}
    for name, cells in (("lower", ["9.000", "4.000", "6.000"]), ("unknown", ["9.000", "-", "6.000"])):
        assert "lm/perplexity" in rows[name]
        assert rows[name][-3:] == cells
    assert "lm/perplexity" not in rows["none"]


def test_a_run_that_its_patience_ended_is_finished(tmp_path: Path) -> None:
    learning_run(tmp_path)
    write_recipe(tmp_path, 20, evaluation={"best": "eval/metric/f1", "patience": 2})
    lines = [{"step": s, "eval/metric/f1": f} for s, f in ((0, 0.2), (4, 0.6), (8, 0.5), (12, 0.4))]
    write_metrics(tmp_path, lines)
    os.utime(tmp_path / "metrics.jsonl", (1e9, 1e9))
    (run,) = json.loads(call("runs", tmp_path, "--json").stdout)
    assert run["state"] == "finished"


def test_a_folder_without_runs(tmp_path: Path) -> None:
    """One that lies too deep is not found: how deep was looked is said, and no table without rows."""
    write_metrics(tmp_path / "a" / "b" / "c", [])
    said = call("runs", tmp_path).stdout.replace("\n", "")
    assert said == f"There are no runs in {tmp_path}, down to two folders deep."
    assert call("runs", tmp_path / "none").exit_code != 0
