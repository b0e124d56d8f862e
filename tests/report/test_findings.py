"""Every warning on a run where it must come, and on one like it where it must not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppokit.report.finding import Finding
from ppokit.report.findings import CHECKS, findings
from ppokit.report.page import report_page
from ppokit.report.pool import Pool
from ppokit.report.run_data import read_run
from report_runs import learning_run, samples, write_metrics, write_recipe, write_samples

QUIET = {"reward/mean": 0.0, "response/finished": 1.0}


def of(folder: Path) -> list[Finding]:
    run = read_run(folder)
    return findings(run, Pool.of(run))


def named(result: list[Finding], beginning: str) -> list[Finding]:
    return [finding for finding in result if beginning in finding.text]


def with_metric(folder: Path, name: str, values: list[float], **others: float) -> list[Finding]:
    """Of a run whose reward rises surely and that has another metric."""
    learning_run(folder, steps=len(values))
    lines = read_run(folder).metrics
    write_metrics(
        folder, [{**line, name: value, **others} for line, value in zip(lines, values, strict=True)]
    )
    return of(folder)


def test_a_run_that_just_learns_has_none(tmp_path: Path) -> None:
    assert of(learning_run(tmp_path)) == []


FALLING = [0.6, 0.55, 0.56, 0.5, 0.45, 0.47, 0.4, 0.38, 0.35, 0.3]
NOISE = [0.6, 0.4, 0.7, 0.5, 0.45, 0.65, 0.4, 0.7, 0.35, 0.55]


@pytest.mark.parametrize(("values", "fires"), [(FALLING, True), (NOISE, False), (FALLING[::-1], False)])
def test_the_canary(tmp_path: Path, values: list[float], fires: bool) -> None:
    result = named(with_metric(tmp_path, "eval/canary/reward_spearman", values), "canary falls")
    assert bool(result) == fires
    if fires:
        assert result[0].level == "warning"
        assert result[0].link == "#curve:eval/canary/reward_spearman"


def test_two_evaluations_are_enough_where_the_canary_says_so(tmp_path: Path) -> None:
    learning_run(tmp_path)
    lines: list[dict[str, Any]] = [dict(line) for line in read_run(tmp_path).metrics]
    for line, value, warning in ((lines[0], 0.6, 0.0), (lines[-1], 0.2, 1.0)):
        line.update({"eval/canary/policy_spearman": value, "eval/canary/warning": warning})
    write_metrics(tmp_path, lines)
    assert named(of(tmp_path), "policy_spearman fell from 0.6 to 0.2")


def test_a_canarys_one_warning_is_said_of_what_fell_furthest(tmp_path: Path) -> None:
    """The other correlation fell by less than is known to be beyond its error; another canary is quiet."""
    learning_run(tmp_path)
    lines: list[dict[str, Any]] = [dict(line) for line in read_run(tmp_path).metrics]
    lines[0] |= {"eval/a/policy_spearman": 0.6, "eval/a/reward_spearman": 0.5, "eval/b/reward_spearman": 0.9}
    lines[-1] |= {"eval/a/policy_spearman": 0.2, "eval/a/reward_spearman": 0.45, "eval/b/reward_spearman": 0}
    lines[-1] |= {"eval/a/warning": 1.0, "eval/b/warning": 0.0}
    write_metrics(tmp_path, lines)
    (warning,) = named(of(tmp_path), "canary falls")
    assert warning.link == "#curve:eval/a/policy_spearman"
    lines[-1] |= {"eval/a/policy_spearman/warning": 0.0, "eval/a/reward_spearman/warning": 1.0}
    write_metrics(tmp_path, lines)
    (warning,) = named(of(tmp_path), "canary falls")
    assert warning.link == "#curve:eval/a/reward_spearman"


def test_a_falling_canary_is_no_matter_while_the_reward_stays(tmp_path: Path) -> None:
    learning_run(tmp_path, rise=0.0)
    lines = read_run(tmp_path).metrics
    name = "eval/canary/reward_spearman"
    write_metrics(tmp_path, [{**line, name: value} for line, value in zip(lines, FALLING, strict=True)])
    assert not named(of(tmp_path), "canary")


@pytest.mark.parametrize(
    ("best_is", "low", "high", "fires"),
    [
        ("highest", -0.3, -0.1, True),
        ("highest", -0.3, 0.1, False),
        ("lowest", 0.1, 0.3, True),
        ("lowest", -0.3, -0.1, False),
    ],
)
def test_the_evaluation_gets_worse(
    tmp_path: Path, best_is: str, low: float, high: float, fires: bool
) -> None:
    ends = {"eval/metric/f1/gain_low": low, "eval/metric/f1/gain_high": high}
    with_metric(tmp_path, "eval/metric/f1", [0.5] * 10, **ends)
    write_recipe(tmp_path, 10, evaluation={"best": "eval/metric/f1", "best_is": best_is})
    assert bool(named(of(tmp_path), "the evaluation gets worse")) == fires


@pytest.mark.parametrize(("slope", "fires"), [(0.02, True), (0.0, False)])
def test_length(tmp_path: Path, slope: float, fires: bool) -> None:
    """Responses grow and rewards rise; in one run since longer ones are paid more, in the other beside it."""
    random = np.random.default_rng(0)
    lines = []
    for step in range(1, 11):
        lengths = np.clip(random.normal(20 + 4 * step, 6, (8, 4)), 3, None).astype(int)
        rise = 0.0 if fires else 0.1 * step
        scores = slope * lengths + rise + 0.02 * random.standard_normal((8, 4))
        write_samples(tmp_path, step, samples(step, scores.tolist(), lengths.tolist()))
        lines.append({"step": step, **QUIET, "reward/mean": float(scores.mean())})
    write_metrics(tmp_path, lines)
    write_recipe(tmp_path, 10)
    assert bool(named(of(tmp_path), "Length explains")) == fires


@pytest.mark.parametrize(("noise", "ends"), [(0.3, "% to all): "), (0.02, "interval all of it): ")])
def test_length_explains_no_more_than_all(tmp_path: Path, noise: float, ends: str) -> None:
    """Longer responses are paid more, and all else gets worse: without length the reward had fallen."""
    random = np.random.default_rng(0)
    for step in range(1, 11):
        lengths = np.clip(random.normal(20 + 4 * step, 6, (8, 4)), 3, None).astype(int)
        scores = 0.02 * lengths - 0.005 * step + noise * random.standard_normal((8, 4))
        write_samples(tmp_path, step, samples(step, scores.tolist(), lengths.tolist()))
    (finding,) = named(of(tmp_path), "Length explains")
    assert finding.text.startswith("Length explains all of the gain in reward (95 % interval ")
    assert ends in finding.text


@pytest.mark.parametrize(("flat", "level"), [(2, None), (4, "note"), (8, "warning")])
def test_groups_without_spread(tmp_path: Path, flat: int, level: str | None) -> None:
    """Of ten groups in the one step that is compared."""
    learning_run(tmp_path, steps=4)
    lines = read_run(tmp_path).metrics
    write_metrics(tmp_path, [*lines, {"step": 5, "reward/mean": 0.5}])
    scores = [[0.5] * 4 if g < flat else [0.1, 0.2, 0.3, 0.4 + g] for g in range(10)]
    write_samples(tmp_path, 5, samples(5, scores))
    result = named(of(tmp_path), "have no spread")
    assert [finding.level for finding in result] == ([] if level is None else [level])


@pytest.mark.parametrize(
    ("fraction", "passes", "fires"), [(0.0, 4.0, True), (0.01, 4.0, False), (0.0, 1.0, False)]
)
def test_nothing_is_clipped(tmp_path: Path, fraction: float, passes: float, fires: bool) -> None:
    """With one pass nothing can be clipped, and that says nothing."""
    result = with_metric(tmp_path, "policy/clip_fraction", [fraction] * 10, **{"update/passes": passes})
    assert bool(named(result, "Clip fraction 0")) == fires


@pytest.mark.parametrize(
    ("values", "fires"),
    [
        ([-1.2, -1.1, -0.9, -0.4, -0.3, -0.2, -0.4, -0.3, -0.2, -0.3], True),
        ([-1.2, -1.1, -0.9, -0.4, 0.3, -0.2, 0.4, -0.3, 0.2, 0.3], False),
        ([-2.0] * 5 + [0.4, 0.5, 0.4, 0.5, 0.4], False),
    ],
    ids=["at the end", "unsure", "only at first"],
)
def test_explained_variance(tmp_path: Path, values: list[float], fires: bool) -> None:
    assert (
        bool(named(with_metric(tmp_path, "value/explained_variance", values), "Explained variance")) == fires
    )


@pytest.mark.parametrize(("weight", "fires"), [(0.05, True), (1.0, False)])
def test_one_provider(tmp_path: Path, weight: float, fires: bool) -> None:
    random = np.random.default_rng(0)
    for step in range(1, 6):
        first, second = random.standard_normal((2, 8, 4))
        total = first + weight * second
        columns = samples(step, total.tolist())
        columns["reward/judge"] = first.flatten().tolist()
        columns["reward/other"] = second.flatten().tolist()
        write_samples(tmp_path, step, columns)
    write_recipe(tmp_path, 5, rewards=[{"use": "judge"}, {"use": "other", "weight": weight}])
    assert bool(named(of(tmp_path), "One provider decides")) == fires


def test_one_that_counts_for_nothing_is_not_compared(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 16, 4))
    columns = samples(1, first.tolist())
    columns["reward/other"] = second.flatten().tolist()
    write_samples(tmp_path, 1, columns)
    write_recipe(tmp_path, 1, rewards=[{"use": "judge"}, {"use": "other", "weight": 0}])
    assert not named(of(tmp_path), "One provider decides")


def test_failures_are_counted(tmp_path: Path) -> None:
    write_samples(tmp_path, 1, samples(1, [[0.1, None, 0.3, 0.2]] * 8))
    (result,) = named(of(tmp_path), "failed for")
    assert "'judge' failed for 8 of 32 responses (25.0 %)" in result.text
    assert result.level == "warning"


def test_failures_in_evaluations_are_counted(tmp_path: Path) -> None:
    """By evaluator; one of forty responses is enough. Those without a response are not counted."""
    learning_run(tmp_path)
    columns: dict[str, list[Any]] = {
        "evaluator": ["held out"] * 21 + ["greedy"] * 2,
        "id": [str(i) for i in range(23)],
        "outcome": ["finished"] * 20 + ["failed"] + ["finished"] * 2,
        "outcome/judge": ["failed"] + ["scored"] * 19 + ["failed", None, None],
        "reason/judge": ["busy"] + [""] * 19 + ["none", None, None],
    }
    write_samples(tmp_path, 0, columns, kind="evaluation")
    columns["outcome/judge"][0] = "scored"
    write_samples(tmp_path, 10, columns, kind="evaluation")
    (warning,) = of(tmp_path)
    assert (warning.level, warning.link) == ("warning", "#failures")
    words = "In the evaluation by 'held out' the reward 'judge' failed for 1 of 40 responses, after step 0"
    assert words in warning.text
    assert warning.text.endswith(": its values are those of the others.")
    for step in (0, 10):
        columns["outcome/judge"] = ["failed"] * 21 + [None, None]
        write_samples(tmp_path, step, columns, kind="evaluation")
    (warning,) = of(tmp_path)
    assert warning.text.endswith("failed for 40 of 40 responses, after steps 0 and 10: it gave no value.")


@pytest.mark.parametrize(("after", "fires"), [(0.2, True), (1.5, False)])
def test_entropy(tmp_path: Path, after: float, fires: bool) -> None:
    values = np.linspace(2.0, after, 10).tolist()
    assert bool(named(with_metric(tmp_path, "policy/entropy", values), "Entropy fell")) == fires


@pytest.mark.parametrize(
    ("values", "fires"),
    [
        (np.linspace(1.0, 0.1, 10).tolist(), True),
        (np.linspace(1.0, 0.9, 10).tolist(), False),
        ([0.7, 0.45, 0.6, 0.4, 0.65, 0.5, 0.6, 0.45], False),  # shares of a few responses, by chance
    ],
)
def test_truncation(tmp_path: Path, values: list[float], fires: bool) -> None:
    assert bool(named(with_metric(tmp_path, "response/finished", values), "end by themselves")) == fires


def test_a_quiet_run_of_noise_warns_of_nothing(tmp_path: Path) -> None:
    """Ten runs in which nothing changes: a check that fires by chance would here."""
    for seed in range(10):
        assert of(learning_run(tmp_path / str(seed), steps=6, rise=0.0, seed=seed)) == []


def test_what_the_run_itself_warned_of(tmp_path: Path) -> None:
    """Once where only numbers differ; failed rewards are counted from the samples, unless there are none."""
    equal = "the reward 'judge' gives {} to every response, for 3 steps now"
    failed = "the reward 'judge' failed for 1 of 32 responses: busy"
    lines = [(3, equal.format(0.5)), (4, failed), (5, equal.format(0.25)), (9, "kl/k1 rose \x1b[31m")]
    text = "".join(json.dumps({"step": step, "text": own}) + "\n" for step, own in lines)
    learning_run(tmp_path)
    (tmp_path / "warnings.jsonl").write_text(text + '[1]\n{"step": "x"}\n{"step": 4, "te')
    first, second = of(tmp_path)
    assert first.text == "The run warned at step 9: kl/k1 rose \x1b[31m."
    assert second.text == f"The run warned at steps 3 and 5, 2 times, the last time: {equal.format(0.25)}."
    assert first.level == second.level == "warning"
    assert (first.link, second.link) == ("#curve:kl/k1", "#curves")
    page = report_page([read_run(tmp_path)])
    assert "kl/k1 rose ⟨U+001B⟩[31m." in page
    shutil.rmtree(tmp_path / "rollouts")
    (warning,) = named(of(tmp_path), failed)
    assert warning.link == "#failures"


def test_what_was_looked_for_is_listed() -> None:
    assert len({title for title, _ in CHECKS}) == len(CHECKS)
