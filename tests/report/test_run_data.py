"""Folders of runs as they are met: going on, killed, damaged, of an older layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ppokit.errors import DataError
from ppokit.report.failures import failures
from ppokit.report.page import report_page
from ppokit.report.run_data import read_run
from ppokit.report.run_state import End, ending, next_page_s, state
from report_runs import data_of, learning_run, samples, write_metrics, write_recipe, write_samples


def page_of(folder: Path) -> str:
    return report_page([read_run(folder)])


def test_a_whole_run_lacks_only_its_provenance(tmp_path: Path) -> None:
    run = read_run(learning_run(tmp_path))
    assert [text for text in run.missing if "provenance" not in text] == []
    assert (run.last_step, run.planned, state(run)) == (10, 10, "finished")
    assert len(run.steps) == 10


@pytest.mark.parametrize(
    ("quiet", "words"), [(10.0, "still going when"), (1000.0, "stopped after step 10 without")]
)
def test_one_that_goes_on_and_one_that_was_killed(tmp_path: Path, quiet: float, words: str) -> None:
    """What is said of one that goes on stays true after a SIGKILL: it is dated."""
    learning_run(tmp_path)
    write_recipe(tmp_path, 20)
    os.utime(tmp_path / "metrics.jsonl", (1e9, 1e9))
    sentence = ending(read_run(tmp_path), 1e9 + quiet)
    assert sentence.startswith(words)
    assert ("at 2001-09-09 01:46 UTC" in sentence) == (quiet == 10)


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({}, 20, 2 * 3.0 + 40),  # steps 11 and 12, and an evaluation
        ({}, 11, 1 * 3.0 + 40),
        ({}, 10, None),
        ({"report": False}, 20, None),
        ({"checkpoint_every": None}, 20, None),
    ],
    ids=["next checkpoint", "end", "finished", "no page", "unknown"],
)
def test_when_the_next_page_is_due(
    tmp_path: Path, settings: dict[str, Any], steps: int, expected: float | None
) -> None:
    """Of ten steps, most of which took three seconds, with a checkpoint every six."""
    seconds = [9.0, *[3.0] * 9]
    lines = [{"step": i, "time/step_s": own} for i, own in enumerate(seconds, 1)]
    write_metrics(tmp_path, [{"step": 0, "time/evaluation_s": 40.0}, *lines])
    write_recipe(tmp_path, steps, run={"steps": steps, "checkpoint_every": 6, **settings})
    run = read_run(tmp_path)
    assert run.changed is not None
    assert next_page_s(run, run.changed + 5) == expected
    assert next_page_s(run, run.changed + 1000) is None


@pytest.mark.parametrize(
    "seconds",
    [{"time/step_s": 600.0}, {"time/step_s": 10.0, "time/evaluation_s": 300.0}, {"time/step_s": None}],
    ids=["steps", "evaluations", "the first step"],
)
def test_slow_steps_and_evaluations_are_no_death(tmp_path: Path, seconds: dict[str, float | None]) -> None:
    """A later step, without an evaluation, has no seconds of one."""
    learning_run(tmp_path)
    write_recipe(tmp_path, 20)
    lines = [{"step": 1, **seconds}, {"step": 2, "time/step_s": seconds["time/step_s"]}]
    write_metrics(tmp_path, lines)
    run = read_run(tmp_path)
    assert run.changed is not None
    assert state(run, run.changed + 290) == "running"


@pytest.mark.parametrize(
    ("content", "known", "words"),
    [
        ({"step": 10, "stopped_by": "SIGINT", "error": None}, "stopped", "stopped by SIGINT after step 10"),
        (
            {"step": 10, "stopped_by": None, "error": "RewardError: no judge"},
            "failed",
            "failed after step 10",
        ),
        ({"step": 10, "stopped_by": None, "error": None}, "stopped", "ended after step 10"),
        (
            {"step": 11, "stopped_by": None, "error": "RewardError: no judge"},
            "failed",
            "failed after step 11",
        ),
        ({"step": 3, "stopped_by": "SIGINT", "error": None}, "running", "still going"),
        ([], "running", "still going"),
        ({"step": None}, "running", "still going"),
    ],
    ids=["signal", "error", "own loop", "in an evaluation", "of before it went on", "list", "no step"],
)
def test_how_it_ended_is_its_own_word(tmp_path: Path, content: Any, known: str, words: str) -> None:
    learning_run(tmp_path)
    write_recipe(tmp_path, 20)
    (tmp_path / "end.json").write_text(json.dumps(content))
    run = read_run(tmp_path)
    assert state(run) == known
    page = page_of(tmp_path)
    done = 11 if "11" in words else 10  # it may have failed before the numbers of its last step were written
    assert f"{done} of 20 steps, {words}" in page
    assert (f"The run failed after step {done}: RewardError: no judge" in page) == (known == "failed")


def test_one_that_did_all_its_steps_has_finished(tmp_path: Path) -> None:
    """Also where a signal came after the last."""
    learning_run(tmp_path)
    (tmp_path / "end.json").write_text('{"step": 10, "stopped_by": "SIGINT", "error": null}')
    assert read_run(tmp_path).end == End(10, "SIGINT", "")
    assert "10 of 10 steps, finished" in page_of(tmp_path)


def test_a_first_step_that_failed(tmp_path: Path) -> None:
    """A NaN loss leaves its samples, without rewards, and no numbers: no step was done."""
    columns = samples(1, [[0.5, 0.25]])
    for name in ("score", "scored", "trained", "token_rewards", "advantages"):
        del columns[name]
    write_samples(tmp_path, 1, columns)
    write_metrics(tmp_path, [])
    write_recipe(tmp_path, 20)
    end = {"step": 0, "stopped_by": None, "error": "NonFiniteError: the loss is nan"}
    (tmp_path / "end.json").write_text(json.dumps(end))
    page = page_of(tmp_path)
    for sentence in (
        "0 of 20 steps, failed after step 0",
        "The run failed after step 0: NonFiniteError: the loss is nan",
        "Step 1 failed: its samples are here",
    ):
        assert sentence in page
    assert "older version" not in page


def test_a_half_written_line_is_what_a_kill_leaves(tmp_path: Path) -> None:
    learning_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "reward/me')
    run = read_run(tmp_path)
    assert run.last_step == 10
    assert not any("metrics" in text for text in run.missing)


@pytest.mark.parametrize(
    "line", ['{"step": 4, "reward', '{"step": Infinity}', '{"step": 1%s}' % (400 * "0"), "4"]
)
def test_a_damaged_line_in_the_middle_is_said(tmp_path: Path, line: str) -> None:
    learning_run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().split("\n")
    lines[3] = line
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    run = read_run(tmp_path)
    assert any("1 line of metrics.jsonl is damaged" in text for text in run.missing)
    assert len(run.metrics) == 9


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_half_written_file_of_samples(tmp_path: Path, size: int) -> None:
    learning_run(tmp_path)
    path = tmp_path / "rollouts" / "step-000010.parquet"
    path.write_bytes(path.read_bytes()[:size])
    run = read_run(tmp_path)
    assert len(run.steps) == 9
    assert any("step-000010.parquet" in text and "left out" in text for text in run.missing)
    assert "step-000010.parquet" in page_of(tmp_path)


def test_what_is_being_written_is_not_read(tmp_path: Path) -> None:
    learning_run(tmp_path)
    (tmp_path / "rollouts" / ".step-000011.parquet.writing").write_bytes(b"PAR1")
    assert len(read_run(tmp_path).steps) == 10


@pytest.mark.parametrize("missing", ["metrics.jsonl", "recipe.yaml", "rollouts"])
def test_a_page_with_what_is_there(tmp_path: Path, missing: str) -> None:
    learning_run(tmp_path)
    path = tmp_path / missing
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()
    run = read_run(tmp_path)
    assert any(missing in text for text in run.missing)
    page = page_of(tmp_path)
    assert missing in page
    assert ("Reward rose from" in page) == (missing != "rollouts")  # ten numbers are too few
    if missing != "recipe.yaml":
        assert "10 of 10 steps, finished" in page


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2", "just text", "a: [", "\x00", "a: &a [*a]", 500 * "[" + 500 * "]"]
)
def test_damaged_recipes_and_provenance(tmp_path: Path, content: str) -> None:
    learning_run(tmp_path)
    for name in ("recipe.yaml", "provenance.json", "end.json"):
        (tmp_path / name).write_text(content)
    assert "Verdict" in page_of(tmp_path)


def test_samples_of_an_older_layout(tmp_path: Path) -> None:
    """No ids, groups, loss masks or outcomes of rewards; tokens and texts alone."""
    write_samples(
        tmp_path,
        1,
        {
            "prompt": ["once", "twice", "once"],
            "response": ["upon", "upon", "a time"],
            "response_ids": [[5], [5], [6, 7]],
            "score": [0.5, 0.25, 0.75],
        },
    )
    run = read_run(tmp_path)
    assert run.steps[0].length.tolist() == [1, 1, 2]
    assert run.steps[0].score.tolist() == [0.5, 0.25, 0.75]
    first, second, third = run.steps[0].groups  # by prompt
    assert first == third != second
    assert "no column id, group, outcome, loss_mask, sampler_logprobs, advantages" in page_of(tmp_path)
    assert "a time" in page_of(tmp_path)


def test_outcomes_and_seconds_that_an_older_version_did_not_keep(tmp_path: Path) -> None:
    columns = samples(1, [[0.5, 0.25]])
    columns["outcome/judge"] = ["failed", "scored"]
    del columns["seconds/judge"]
    write_samples(tmp_path, 1, columns)
    assert "The samples hold no seconds of calls" in page_of(tmp_path)
    del columns["outcome/judge"]
    write_samples(tmp_path, 1, columns)
    assert "The samples have no column outcome/&lt;reward&gt;, as those" in page_of(tmp_path)


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    write_recipe(tmp_path, 5)
    write_metrics(tmp_path, [])
    run = read_run(tmp_path)
    assert run.last_step == 0
    assert "No step has been done yet" in page_of(tmp_path)


def test_one_step(tmp_path: Path) -> None:
    write_samples(tmp_path, 1, samples(1, [[0.5, 0.25]]))
    write_metrics(tmp_path, [{"step": 1, "reward/mean": 0.375}])
    assert "too early to say" in page_of(tmp_path)


def test_views_without_content_say_why(tmp_path: Path) -> None:
    """Nothing was scored, so that no words are compared; then there are no samples either."""
    write_samples(tmp_path, 1, samples(1, [[None, None]]))
    write_metrics(tmp_path, [{"step": 1, "reward/judge/failed": 1.0}])
    page = page_of(tmp_path)
    assert "No response that was read has a score." in page
    assert page.count("There are too few responses to say.") == 2
    assert "No word stands out." not in page
    (tmp_path / "rollouts" / "step-000001.parquet").unlink()
    page = page_of(tmp_path)
    assert "There are no responses here: no samples were kept, or none can be read." in page
    assert "All 0 responses" not in page


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """null stands for a number that was not finite."""
    learning_run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    extra = {
        "reward/mean": None,
        "eval/rewards/mean": None,
        "kl/k1": None,
        "time/reward/judge/median_s": None,
    }
    write_metrics(tmp_path, [{**line, **extra, "huge": 10**400} for line in lines])
    assert "Verdict" in page_of(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "a recipe alone"])
def test_what_is_no_run_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "a file":
        path.write_text("")
    elif kind == "empty":
        path.mkdir()
    elif kind == "a recipe alone":
        write_recipe(path, 5)
    with pytest.raises(DataError, match="run"):
        read_run(path)


def test_of_very_many_steps_evenly_many_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are compared, the first and the last two of ten, and others between."""
    monkeypatch.setattr("ppokit.report.run_samples.MAX_FILES", 6)
    run = read_run(learning_run(tmp_path))
    assert [samples.step for samples in run.steps] == [1, 2, 3, 8, 9, 10]
    assert run.skipped == 4
    assert "4 more steps were not read" in report_page([run])
    (tmp_path / "metrics.jsonl").unlink()  # nothing says which are compared
    assert [samples.step for samples in read_run(tmp_path).steps] == [1, 3, 5, 6, 8, 10]


def test_a_compared_step_that_is_damaged_has_another_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of responses and of steps are then of the same steps."""
    monkeypatch.setattr("ppokit.report.run_samples.MAX_FILES", 14)
    learning_run(tmp_path, steps=30, groups=1)
    (tmp_path / "rollouts" / "step-000030.parquet").write_bytes(b"PAR1")
    run = read_run(tmp_path)
    assert run.compared() == ([1, 2, 3, 4, 5], [25, 26, 27, 28, 29])
    assert {*range(1, 6), *range(25, 30)} < {samples.step for samples in run.steps}


def test_failures_of_steps_that_are_not_read_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics say which steps have some: their outcomes alone are read."""
    monkeypatch.setattr("ppokit.report.run_samples.MAX_FILES", 8)
    learning_run(tmp_path, steps=20)
    lines = [dict(line) for line in read_run(tmp_path).metrics]
    for step, scores in ((7, [None, 0.5]), (8, [0.5, 0.5]), (9, [None, None])):
        write_samples(tmp_path, step, samples(step, [scores]))
        if None in scores:
            lines[step - 1]["reward/judge/failed"] = scores.count(None) / 2
    write_metrics(tmp_path, lines)
    run = read_run(tmp_path)
    assert [own.step for own in run.steps] == [1, 2, 3, 4, 17, 18, 19, 20]
    assert [own.step for own in run.failing] == [7, 9]
    (cause,), rows, count = failures(run, {})
    assert (cause.reason, cause.count, cause.first, cause.last, cause.longest) == (
        "it said so",
        3,
        7,
        9,
        0.25,
    )
    assert [row.step for row in rows] == [9, 9, 7]
    assert count == 3
    assert "3 of 3 one by one" in page_of(tmp_path)
    # By the metrics' shares, 1.5 of 20, of steps as large as those that were read.
    assert "failed for about 48 of 640 responses (7.5 %)" in page_of(tmp_path)
    monkeypatch.setattr("ppokit.report.run_samples.MAX_FAILING", 1)
    (tmp_path / "rollouts" / "step-000009.parquet").unlink()
    page = page_of(tmp_path)
    assert "1 of 1 one by one" in page
    assert "Something failed or abstained at 1 more step, whose samples are not there" in page


def test_without_samples_the_metrics_say_that_something_failed(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": 1, "rollout/failed": 0.5}, {"step": 2, "reward/judge/abstained": 0.1}])
    page = page_of(tmp_path)
    assert "Something failed or abstained at 2 more steps" in page
    assert "No reward failed" not in page


def test_what_a_tool_wrote_and_what_was_left_out_counts_nowhere(tmp_path: Path) -> None:
    """Sums are over the policy's own tokens; a response that the update left out has no change at all."""
    columns = samples(1, [[0.1, 0.2, 0.3]], [[3, 2, 2]])
    columns["loss_mask"] = [[True, False, True], [True, True], [True, True]]
    columns["kl/k1"] = [[1.0, 50.0, 2.0], [4.0, 8.0], [16.0, 32.0]]
    columns["log_ratio"] = [[0.5, 70.0, 0.25], None, [0.0, 0.125]]
    write_samples(tmp_path, 1, columns)
    (read,) = read_run(tmp_path).steps
    assert read.length.tolist() == [2, 2, 2]
    assert read.kl.tolist() == [3, 12, 48]
    assert read.change[[0, 2]].tolist() == [0.75, 0.125]
    assert read.change[1] != read.change[1]


@pytest.mark.parametrize("missing", [None, []])
def test_a_response_that_was_not_trained_on_has_no_numbers_of_the_update(
    tmp_path: Path, missing: list[float] | None
) -> None:
    """As by `mask_truncated`, dynamic sampling or a reward that failed: the others' are there."""
    columns = samples(1, [[0.1, 0.2, 0.3]], [[2, 2, 1]])
    columns["kl/k1"] = [[1.0, 2.0], [4.0, 8.0], [16.0]]
    columns["log_ratio"] = [[0.0, 0.5], missing, missing]
    columns["entropy"] = [[1.0, 2.0], missing, missing]
    columns["trained"] = [True, False, False]
    write_samples(tmp_path, 1, columns)
    write_metrics(tmp_path, [{"step": 1, "reward/mean": 0.2}])
    first, *others = [sample["tk"] for sample in data_of(page_of(tmp_path))["samples"]]
    assert first["kl_after"] == [1, 2.5]
    assert [own["kl"] for own in others] == [[4, 8], [16]]
    for own in others:
        assert not own.keys() & {"ratio", "kl_after", "entropy"}
