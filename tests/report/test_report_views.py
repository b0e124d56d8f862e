"""What a page says of a run: failures, patterns, provenance, the verdict; from runs that are known."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from ppokit.report.charts import nice_ticks, thinned
from ppokit.report.choose import bisected, choose
from ppokit.report.failures import failures, latencies
from ppokit.report.page import report_page
from ppokit.report.patterns import common_phrases, near_duplicates
from ppokit.report.pool import Pool
from ppokit.report.provenance_view import preset_differences, recipe_differences
from ppokit.report.run_data import read_run
from ppokit.report.tokens import TokenTexts, texts_of, texts_of_run
from ppokit.report.verdict import evaluation_metrics, headline, verdict_rows
from report_runs import learning_run, samples, write_metrics, write_recipe, write_samples


def test_every_failure_has_its_cause_and_its_seconds(tmp_path: Path) -> None:
    write_samples(tmp_path, 1, samples(1, [[0.1, None], [0.2, 0.3]]))
    columns = samples(2, [[0.1, None], [None, 0.3]])
    columns["reason/judge"] = ["", "timeout", "timeout", ""]
    columns["outcome/judge"] = ["scored", "failed", "abstained", "scored"]
    columns["outcome"] = ["finished", "finished", "finished", "failed"]
    columns["seconds/judge"] = [0.5, 30.0, 0.25, math.nan]
    write_samples(tmp_path, 2, columns)
    times = {
        f"time/reward/judge/{name}_s": seconds
        for name, seconds in (("median", 1), ("p95", 2), ("longest", 3))
    }
    write_metrics(tmp_path, [{"step": 1}, {"step": 2, **times}])
    run = read_run(tmp_path)
    causes, rows, count = failures(run, {(2, 1): 7})
    assert count == 4
    assert [(c.provider, c.outcome, c.reason, c.count, c.first, c.last, c.longest) for c in causes[:3]] == [
        ("judge", "failed", "it said so", 1, 1, 1, 0.25),
        ("judge", "failed", "timeout", 1, 2, 2, 30.0),
        ("judge", "abstained", "timeout", 1, 2, 2, 0.25),
    ]
    assert (causes[3].provider, causes[3].reason) == ("the rollout engine", "no response")
    assert math.isnan(causes[3].longest)
    assert (rows[0].step, rows[0].reason, rows[0].seconds, rows[0].sample) == (2, "timeout", 30, 7)
    assert latencies(run) == [("judge", 1, 2, 3)]
    page = report_page([run])
    assert "4 of 4 one by one" in page
    assert re.search(r"<td>failed</td><td dir=.auto.>timeout</td><td>30</td>", page)


def test_a_seldom_cause_stands_beside_a_frequent_one(tmp_path: Path) -> None:
    """Of more failures than are shown each cause has some, also abstentions, with their seconds."""
    for step in range(1, 6):
        columns = samples(step, [[None] * 30] * 2)
        columns["reason/judge"] = ["busy"] * 59 + ["a rare one"]
        columns["outcome/judge"] = ["failed"] * 59 + ["abstained"]
        columns["seconds/judge"] = [float(step)] * 60
        write_samples(tmp_path, step, columns)
    causes, rows, count = failures(read_run(tmp_path), {})
    assert (count, len(rows)) == (300, 200)
    assert [(c.reason, c.count, c.first, c.last, c.median, c.longest) for c in causes] == [
        ("busy", 295, 1, 5, 3, 5),
        ("a rare one", 5, 1, 5, 3, 5),
    ]
    assert [row.step for row in rows if row.reason == "a rare one"] == [5, 4, 3, 2, 1]
    for step in range(6, 10):
        columns["reason/judge"] = [f"answer {i} of {step}" for i in range(60)]
        write_samples(tmp_path, step, columns)
    assert "42 more causes are less frequent" in report_page([read_run(tmp_path)])
    chosen = choose(read_run(tmp_path).steps, 1e6, 0)
    assert all(59 in rows for rows in chosen.rows.values())


def test_words_of_the_best() -> None:
    best = [f"It is great, just great, number {i}" for i in range(10)]
    first = [f"It is number {i}" for i in range(10)]
    phrases = common_phrases(best, first)
    assert phrases[0].text == "great , just great"
    assert (phrases[0].best, phrases[0].first) == (1.0, 0.0)
    assert not any(phrase.text in ("it", "is", "it is") for phrase in phrases)
    assert common_phrases(first, first) == []


def test_near_duplicates() -> None:
    same = [f"the cat sat on the mat and slept until the sun went down over the hill {end}" for end in "abc"]
    texts = [
        same[0],
        "quite another text of several words",
        same[1],
        "one more that is like none of them",
        same[2],
    ]
    (cluster,) = near_duplicates(texts)
    assert cluster.members == (0, 2, 4)
    assert near_duplicates(["", "", "a", "b"])[0].members == (0, 1)


@pytest.mark.parametrize(
    ("rise", "sentence"),
    [(0.1, "Reward rose from"), (-0.1, "Reward fell from"), (0.0, "has not changed surely")],
)
def test_the_headline(tmp_path: Path, rise: float, sentence: str) -> None:
    run = read_run(learning_run(tmp_path, rise=rise))
    assert sentence in headline(run, Pool.of(run))


def test_evaluation_stands_from_step_0_to_the_best_and_the_last(tmp_path: Path) -> None:
    learning_run(tmp_path)
    name = "eval/metric/f1"
    lines = [dict(line) for line in read_run(tmp_path).metrics]
    gains = {f"{name}/gain": 0.1, f"{name}/gain_low": 0.05, f"{name}/gain_high": 0.2}
    write_metrics(
        tmp_path,
        [{"step": 0, name: 0.25}, *lines[:4], {**lines[4], name: 0.75}, {**lines[9], name: 0.5, **gains}],
    )
    run = read_run(tmp_path)
    (row,) = [row for row in verdict_rows(run, Pool.of(run)) if row.label == "Evaluation metric/f1"]
    assert (row.before, row.after, row.detail) == (0.25, 0.5, "from step 0 to 10, highest 0.75 at 5")
    assert (row.change.value, row.change.low, row.change.high) == (0.1, 0.05, 0.2)
    write_recipe(tmp_path, 10, evaluation={"best": name, "best_is": "lowest"})
    run = read_run(tmp_path)
    (row,) = [row for row in verdict_rows(run, Pool.of(run)) if row.label == "Evaluation metric/f1"]
    assert row.detail == "from step 0 to 10, best 0.25 at 0"


def test_what_an_evaluator_measures_comes_before_what_every_evaluation_reports(tmp_path: Path) -> None:
    """`best` before all; what is never another number, as chrF's beta, after all."""
    write_recipe(tmp_path, 5, evaluation={"best": "eval/greedy/kl"})
    evaluated = ("judge/score", "judge/beta", "greedy/distinct_2", "texts/perplexity", "greedy/kl")
    lines = [{"step": step, **{f"eval/{name}": 1.0 for name in evaluated}} for step in (0, 5)]
    lines[1] |= {"eval/greedy/distinct_2/gain": 0.0, "eval/texts/perplexity": 2.0, "eval/judge/score": 2.0}
    write_metrics(tmp_path, lines)
    names = evaluation_metrics(read_run(tmp_path))
    order = ("greedy/kl", "judge/score", "greedy/distinct_2", "texts/perplexity", "judge/beta")
    assert names == [f"eval/{name}" for name in order]


def test_what_the_verdict_leaves_out_is_said(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": 0, **{f"eval/judge/{i}": 1.0 for i in range(11)}}])
    assert "3 more numbers of evaluations are among the curves" in report_page([read_run(tmp_path)])


def test_recipes_are_compared(tmp_path: Path) -> None:
    for name, weight in (("one", 1.0), ("two", 2.0)):
        write_recipe(tmp_path / name, 5, rewards=[{"use": "length", "weight": weight}])
        write_metrics(tmp_path / name, [])
    runs = [read_run(tmp_path / name) for name in ("one", "two")]
    assert recipe_differences(runs) == [("rewards[0].weight", ["1.0", "2.0"])]


def test_the_nearest_preset(tmp_path: Path) -> None:
    """Dr. GRPO's keys, of which one was changed."""
    from ppokit.config.presets import content

    preset = content("dr_grpo")
    preset["update"] = {**preset["update"], "epochs": 77}
    write_recipe(tmp_path, 5, **preset)
    write_metrics(tmp_path, [])
    name, differences = preset_differences(read_run(tmp_path))
    assert name == "dr_grpo"
    assert [(key, own) for key, _, own in differences] == [("update.epochs", "77")]


def test_whole_groups_of_the_first_and_the_last_step_come_first(tmp_path: Path) -> None:
    run = read_run(learning_run(tmp_path, steps=9, groups=6))
    chosen = choose(run.steps, 30_000, 0)
    whole = {step for step, rows in chosen.rows.items() if len(rows) == 24}
    assert {1, 9} <= whole
    assert len(chosen) < 9 * 24
    everything = choose(run.steps, 1e9, 0)
    assert len(everything) == 9 * 24


def test_prompts_are_followed_over_all_steps(tmp_path: Path) -> None:
    """The first prompts are asked at every step: their groups are there, whatever else fits."""
    run = read_run(learning_run(tmp_path, steps=9, groups=6))
    chosen = choose(run.steps, 90_000, 0)
    for samples_ in run.steps:
        rows = chosen.rows[samples_.step]
        assert any(
            {i for i, g in enumerate(samples_.groups) if g == group} <= rows.keys() for group in range(3)
        )


def test_bisection() -> None:
    assert bisected([1, 2, 3, 4, 5]) == [1, 5, 3, 2, 4]
    assert bisected([7]) == [7]
    assert sorted(bisected(list(range(100)))) == list(range(100))


def test_a_peak_stays_in_a_thinned_curve() -> None:
    points = [(float(i), 0.0) for i in range(1000)]
    points[501] = (501.0, 9.0)
    kept = thinned(points)
    assert (501.0, 9.0) in kept
    assert len(kept) <= 120
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 1]), (-0.6, 0.96, [-0.5, 0, 0.5]), (0.01, 94.7, [25, 50, 75])]
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_tokens_are_visible(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = texts_of(tokenizer)
    text = 'Lily said, "no!"\n Tom'
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(texts(i)[0] for i in ids) == text
    assert texts(tokenizer.eos_token_id) == (tokenizer.eos_token, True)
    assert texts(10**6) == (f"token {10**6}", True)


def test_a_run_without_a_policy_has_its_models_tokens(tmp_path: Path, tiny_model: Path) -> None:
    """As where it was killed before its first checkpoint; a damaged tokenizer of the policy's is none."""
    texts = texts_of_run(tmp_path, str(tiny_model))
    assert texts is not None
    assert not texts(100)[0].startswith("token ")
    assert texts_of_run(tmp_path, "/no/such/model") is None
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "tokenizer.json").write_text("{")
    assert texts_of_run(tmp_path, str(tiny_model)) is None


def test_both_ways_of_reading_a_tokenizer_agree(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    fast, slow = texts_of_run(tmp_path), texts_of_run(tmp_path / "none", str(tiny_model))
    assert fast is not None
    assert slow is not None
    assert [fast(i) for i in range(500)] == [slow(i) for i in range(500)]


def test_a_part_of_a_character_is_named() -> None:
    texts = TokenTexts(lambda ids: "a" + "\ufffd" * (len(ids) - 1), {5: "<0xE2>"}.get, frozenset(), 1)
    assert texts(5) == ("<0xE2>", True)


def test_movers_move(tmp_path: Path) -> None:
    """Likelier ones rose and others fell; what is left of rounding is neither, as at the first step."""
    columns = samples(1, [[0.1, 0.2, 0.3, 0.4]], [[2, 2, 2, 2]])
    columns["kl/k1"] = [[1e-6, 1e-6], [-1e-6, 0.0], [0.0, 0.0], [2e-6, 0.0]]
    columns["log_ratio"] = [[0.5, 0.5], [-0.25, -0.5], [0.0, 1e-3], [0.25, 0.0]]
    write_samples(tmp_path, 1, columns)
    chosen = choose(read_run(tmp_path).steps, 1e6, 0)
    assert not chosen.by_reference
    assert chosen.up == [(1, 0), (1, 3)]
    assert chosen.down == [(1, 1)]
    columns["kl/k1"] = [[1.0, 1.0], [-1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]
    write_samples(tmp_path, 2, columns)
    chosen = choose(read_run(tmp_path).steps, 1e6, 0)
    assert chosen.by_reference
    assert (chosen.up, chosen.down) == ([(2, 2), (2, 0)], [(2, 1)])


def test_one_text_stands_once_in_a_list(tmp_path: Path) -> None:
    """At its highest; others of the same score, as of a reward of 0 and 1, stay."""
    for step in (1, 2):
        columns = samples(step, [[1.0, 1.0, 0.5 * step, 0.0]])
        columns["response"] = ["the same", "the same", "", f"another of {step}"]
        write_samples(tmp_path, step, columns)
    chosen = choose(read_run(tmp_path).steps, 1e6, 0)
    assert chosen.best == [(1, 0), (2, 2), (1, 3), (2, 3)]
    assert chosen.worst == [(1, 3), (2, 3), (1, 2), (1, 0)]
    assert report_page([read_run(tmp_path)]).count(">(empty)<") == 2
