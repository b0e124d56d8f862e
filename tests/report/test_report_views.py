"""What a page says of a run: failures, patterns, provenance, the verdict; from runs that are known."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from ppokit.report.charts import nice_ticks, thinned
from ppokit.report.choose import Chosen, bisected, choose
from ppokit.report.curves import figures
from ppokit.report.failures import failures, latencies
from ppokit.report.page import report_page
from ppokit.report.patterns import common_phrases, near_duplicates
from ppokit.report.pool import Pool
from ppokit.report.provenance_view import facts, preset_differences, recipe_differences
from ppokit.report.run_data import read_run
from ppokit.report.shown_samples import shown_samples
from ppokit.report.tokens import TokenTexts, texts_of, texts_of_run, unknown_texts
from ppokit.report.verdict import evaluation_metrics, headline, verdict_rows
from report_runs import data_of, learning_run, samples, write_metrics, write_recipe, write_samples


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
    assert re.search(r"<td>training</td><td>failed</td><td dir=.auto.>timeout</td><td>30</td>", page)


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


def test_failures_of_evaluations_stand_beside_those_of_training(tmp_path: Path) -> None:
    """By evaluator; a reward that one did not ask has no outcome there."""
    write_samples(tmp_path, 5, samples(5, [[None, 0.5]]))
    columns = {
        "evaluator": ["judge", "judge", "greedy", "greedy"],
        "id": ["a", "b", "c", "d"],
        "outcome": ["finished", "failed", "finished", "finished"],
        "outcome/judge": ["failed", "failed", None, None],
        "reason/judge": ["it said so", "none", None, None],
        "seconds/judge": [2.5, math.nan, None, None],
        "outcome/length": [None, None, "scored", "abstained"],
    }
    write_samples(tmp_path, 5, columns, kind="evaluation")
    causes, rows, count = failures(read_run(tmp_path), {(5, 0): 3})
    assert count == 4
    assert {(c.asked_in, c.provider, c.outcome, c.reason, c.count) for c in causes} == {
        ("training", "judge", "failed", "it said so", 1),
        ("evaluation judge", "judge", "failed", "it said so", 1),
        ("evaluation judge", "the rollout engine", "failed", "no response", 1),
        ("evaluation greedy", "length", "abstained", "", 1),
    }
    by_id = {row.id: (row.asked_in, row.sample) for row in rows}
    assert by_id == {
        "000005-0000-000": ("training", 3),
        "a": ("evaluation judge", None),
        "b": ("evaluation judge", None),
        "d": ("evaluation greedy", None),
    }
    page = report_page([read_run(tmp_path)])
    assert re.search(
        r"<td>evaluation judge</td><td>failed</td><td dir=.auto.>it said so</td><td>2.5</td>", page
    )
    path = tmp_path / "evaluation" / "step-000005.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert "The responses of the evaluation at step 5 cannot be read" in report_page([read_run(tmp_path)])
    del columns["evaluator"]  # as of no version
    write_samples(tmp_path, 5, columns, kind="evaluation")
    assert "The responses of the evaluation at step 5 cannot be read" in report_page([read_run(tmp_path)])


def test_words_of_the_best() -> None:
    best = [(f"prompt {i}", f"It is great, just great, number {i}") for i in range(10)]
    first = [(f"prompt {i}", f"It is number {i}") for i in range(10)]
    phrases = common_phrases(best, first)
    assert phrases[0].text == "great , just great"
    assert (phrases[0].best, phrases[0].first) == (1.0, 0.0)
    assert not any(phrase.text in ("it", "is", "it is") for phrase in phrases)
    assert common_phrases(first, first) == []


def test_words_of_prompts_are_no_gaming() -> None:
    """Neither what a response repeats of its prompt, nor the subject of one prompt's responses."""
    prompts = ["Sum up: the river rose", "Sum up: a cat slept", "Sum up: it snowed"]
    best = [(prompt, f"{prompt.partition(': ')[2]}, wow") for prompt in prompts for _ in range(4)]
    best += [(prompts[0], "the water stood in the streets")] * 4
    first = [("Sum up: the sun shone", "sun")] * 12
    assert [phrase.text for phrase in common_phrases(best, first)] == ["wow"]
    (phrase,) = common_phrases(best, [("Say wow", "wow"), ("Sum up: x", "wow")] * 4)
    assert (phrase.text, phrase.best, phrase.first) == ("wow", 0.75, 0.5)


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


@pytest.mark.parametrize(
    ("name", "ends", "words"),
    [
        ("judge/score", (0.24, 0.56), "judge/score rose from 0.219 to 0.602 (95 % interval +0.24 to +0.56)."),
        ("judge/score", (-0.24, 0.56), "judge/score has not changed surely: from 0.219 to 0.602 (95 % int"),
        ("judge/score", None, "judge/score went from 0.219 to 0.602."),
        ("greedy/kl", (0.24, 0.56), None),
    ],
)
def test_the_headline_says_what_the_evaluation_says(
    tmp_path: Path, name: str, ends: tuple[float, float] | None, words: str | None
) -> None:
    """Of what evaluators measure; not of what every evaluation reports."""
    name = f"eval/{name}"
    last = {"step": 9, name: 0.602}
    if ends is not None:
        last |= {f"{name}/gain": 0.383, f"{name}/gain_low": ends[0], f"{name}/gain_high": ends[1]}
    write_metrics(tmp_path, [{"step": 0, name: 0.219}, last])
    run = read_run(tmp_path)
    sentence = headline(run, Pool.of(run))
    assert (f"In evaluation, {words}" in sentence) if words else "In evaluation" not in sentence


def test_a_headline_without_scores_says_which(tmp_path: Path) -> None:
    write_metrics(tmp_path, [])
    assert headline(read_run(tmp_path), Pool.of(read_run(tmp_path))) == "No step has been done yet."
    write_samples(tmp_path, 1, samples(1, [[None, None]]))
    write_metrics(tmp_path, [{"step": 1, "reward/judge/failed": 1.0}])
    assert headline(read_run(tmp_path), Pool.of(read_run(tmp_path))) == "No response was scored."


def test_the_headline_is_as_sure_as_the_table(tmp_path: Path) -> None:
    """Without samples there are two numbers of each end: too few for an interval, here as there."""
    write_metrics(tmp_path, [{"step": step, "reward/mean": 0.1 * step} for step in range(1, 11)])
    run = read_run(tmp_path)
    (row,) = verdict_rows(run, Pool.of(run))
    assert math.isnan(row.change.low)
    assert "Reward went from 0.15 to 0.95" in headline(run, Pool.of(run))


def test_samples_alone_fill_the_table(tmp_path: Path) -> None:
    """Without metrics.jsonl: with links to what is on the page."""
    (learning_run(tmp_path) / "metrics.jsonl").unlink()
    run = read_run(tmp_path)
    rows = verdict_rows(run, Pool.of(run))
    assert [row.label for row in rows] == ["Reward", "Length, tokens", "Responses that end by themselves"]
    assert rows[0].after == pytest.approx(0.95, abs=0.05)
    assert {row.link for row in rows} == {"#points"}


def test_the_steps_that_are_compared_are_named(tmp_path: Path) -> None:
    """Those whose samples can be read: of ten steps the last two, of which one is damaged."""
    learning_run(tmp_path)
    lines = [{**line, "eval/f1": 0.25 * (line["step"] == 10)} for line in read_run(tmp_path).metrics]
    write_metrics(tmp_path, lines)
    columns = r'<th scope="col">(steps .*?)</th><th scope="col">(steps .*?)</th>'
    assert re.findall(columns, report_page([read_run(tmp_path)])) == [("steps 1 and 2", "steps 9 and 10")]
    (tmp_path / "rollouts" / "step-000010.parquet").write_bytes(b"PAR1")
    run = read_run(tmp_path)
    assert "from step 1 to step 9." in headline(run, Pool.of(run))
    page = report_page([run])
    assert re.search('<th scope="col">step 1</th><th scope="col">step 9</th>', page)
    assert "from step 1 to 10, highest 0.25 at 10" in page


def test_one_evaluation_has_no_last_value(tmp_path: Path) -> None:
    """As of a run that was killed in its first steps."""
    write_metrics(tmp_path, [{"step": 0, "eval/f1": 0.5}, {"step": 1, "reward/mean": 0.1}])
    row = re.search(r"Evaluation f1</a></th><td>(.*?)</td><td>(.*?)</td>", report_page([read_run(tmp_path)]))
    assert row is not None
    assert row.groups() == ("0.5", "–")


def test_evaluation_stands_from_step_0_to_the_best_and_the_last(tmp_path: Path) -> None:
    learning_run(tmp_path)
    name = "eval/metric/f1"
    lines = [dict(line) for line in read_run(tmp_path).metrics]
    gains = {f"{name}/gain": 0.25, f"{name}/gain_low": 0.125, f"{name}/gain_high": 0.5}
    write_metrics(
        tmp_path,
        [{"step": 0, name: 0.25}, *lines[:4], {**lines[4], name: 0.75}, {**lines[9], name: 0.5, **gains}],
    )
    run = read_run(tmp_path)
    (row,) = [row for row in verdict_rows(run, Pool.of(run)) if row.label == "Evaluation metric/f1"]
    assert (row.before, row.after, row.detail) == (0.25, 0.5, "from step 0 to 10, highest 0.75 at 5")
    assert (row.change.value, row.change.low, row.change.high) == (0.25, 0.125, 0.5)
    write_recipe(tmp_path, 10, evaluation={"best": name, "best_is": "lowest"})
    run = read_run(tmp_path)
    (row,) = [row for row in verdict_rows(run, Pool.of(run)) if row.label == "Evaluation metric/f1"]
    assert row.detail == "from step 0 to 10, best 0.25 at 0"


def test_an_earlier_evaluations_interval_is_not_the_last_ones(tmp_path: Path) -> None:
    """The last one has no prompt in common with the first: nobody knows how sure its change is."""
    name = "eval/judge"
    gains = {f"{name}/gain": 0.5, f"{name}/gain_low": 0.4, f"{name}/gain_high": 0.6}
    write_metrics(
        tmp_path, [{"step": 0, name: 0.25}, {"step": 5, name: 0.75, **gains}, {"step": 9, name: 0.125}]
    )
    run = read_run(tmp_path)
    (row,) = verdict_rows(run, Pool.of(run))
    assert (row.change.value, math.isnan(row.change.low)) == (-0.125, True)
    assert "judge went from 0.25 to 0.125." in headline(run, Pool.of(run))


def test_a_change_that_is_of_fewer_prompts_than_the_values_says_so(tmp_path: Path) -> None:
    """The values differ by 0.3. An older run does not say of how many prompts its gain is."""
    ends = {"eval/judge/gain_low": 0.05, "eval/judge/gain_high": 0.2}
    for gain, counts, words in (
        (
            0.1,
            {"eval/judge/gain_prompts": 7, "eval/judge/gain_of": 9},
            "over the 7 of 9 prompts with a number both times; from step 0 to 5",
        ),
        (0.1, {}, "mean over prompts with a number both times; from step 0 to 5"),
        (0.3, {}, "from step 0 to 5"),
    ):
        last = {"step": 5, "eval/judge": 0.5, "eval/judge/gain": gain, **ends, **counts}
        write_metrics(tmp_path, [{"step": 0, "eval/judge": 0.2}, last])
        run = read_run(tmp_path)
        assert evaluation_metrics(run) == ["eval/judge"]
        (row,) = verdict_rows(run, Pool.of(run))
        assert row.detail.startswith(words)


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


@pytest.mark.parametrize(
    ("count", "words"), [(11, "3 more numbers of evaluations are"), (9, "1 more number of evaluations is")]
)
def test_what_the_verdict_leaves_out_is_said(tmp_path: Path, count: int, words: str) -> None:
    write_metrics(tmp_path, [{"step": 0, **{f"eval/judge/{i}": 1.0 for i in range(count)}}])
    assert f"{words} among the curves" in report_page([read_run(tmp_path)])


def test_runs_are_compared_by_all_of_their_numbers(tmp_path: Path) -> None:
    """Each has ten evaluations, of which its own table shows eight, and in another order."""
    names = [f"eval/judge/{i}" for i in range(10)]
    for folder, order in (("a", names), ("b", names[::-1])):
        values = {name: int(name[-1]) + 0.5 for name in order}
        write_metrics(tmp_path / folder, [{"step": 0, **dict.fromkeys(order, 0.0)}, {"step": 5, **values}])
    page = report_page([read_run(tmp_path / "a"), read_run(tmp_path / "b")])
    for i in range(10):
        row = re.search(rf'<th scope="row">Evaluation judge/{i}</th>(.*?)</tr>', page)
        assert row is not None
        assert re.findall(r"<td>(\S+)", row[1]) == [f"{i}.5"] * 2


def test_a_reward_that_never_failed_is_compared_with_one_that_did(tmp_path: Path) -> None:
    """Its share is 0; of a reward that the other run does not have, nothing is known."""
    lines = [{"step": step, "reward/mean": 0.5, "reward/judge": 0.5} for step in (1, 2)]
    write_metrics(tmp_path / "a", [lines[0], {**lines[1], "reward/judge/failed": 0.25}])
    write_metrics(tmp_path / "b", lines)
    for name in "ab":
        write_recipe(tmp_path / name, 2, rewards=[{"use": "judge"}])
    write_metrics(tmp_path / "c", [{"step": 1, "reward/mean": 0.5}, {"step": 2, "reward/mean": 0.5}])
    page = report_page([read_run(tmp_path / name) for name in "abc"])
    row = re.search(r'<th scope="row">judge: failed rewards</th>(.*?)</tr>', page)
    assert row is not None
    assert re.findall(r"<td>(\S+)", row[1]) == ["0.25", "0", "–"]
    assert "judge: abstained rewards" not in page
    assert "judge: failed rewards" not in report_page([read_run(tmp_path / "b")])


def test_recipes_are_compared(tmp_path: Path) -> None:
    for name, weight in (("one", 1.0), ("two", 2.0)):
        write_recipe(tmp_path / name, 5, rewards=[{"use": "length", "weight": weight}])
        write_metrics(tmp_path / name, [])
    runs = [read_run(tmp_path / name) for name in ("one", "two")]
    assert recipe_differences(runs) == [("rewards[0].weight", ["1.0", "2.0"])]


def test_runs_that_were_evaluated_on_other_prompts_are_is_warned(tmp_path: Path) -> None:
    """One that does not say what it was evaluated on is no other."""
    for name, digest in (("a", 64 * "a"), ("same", 64 * "a"), ("other", 64 * "b"), ("unknown", None)):
        write_metrics(tmp_path / name, [{"step": 0, "eval/judge/score": 1.0}])
        hashes = {"held_out": ["damaged"]} if digest is None else {"held_out": digest, "texts": 64 * "c"}
        (tmp_path / name / "provenance.json").write_text(json.dumps({"hashes": hashes}))

    def is_warned(*names: str) -> bool:
        page = report_page([read_run(tmp_path / name) for name in names])
        assert "held-out texts" not in page
        return "not evaluated on the same held-out prompts or their columns: compare" in page

    assert not is_warned("other")
    assert not is_warned("a", "same", "unknown")
    assert is_warned("a", "same", "other")


def test_the_preset(tmp_path: Path) -> None:
    """Dr. GRPO's keys, of which one was changed; with another loss it is no preset."""
    from ppokit.config.presets import content

    preset = content("dr_grpo")
    preset["update"] = {**preset["update"], "epochs": 77}
    write_recipe(tmp_path, 5, **preset)
    write_metrics(tmp_path, [])
    name, differences = preset_differences(read_run(tmp_path))
    assert name == "dr_grpo"
    assert [(key, own) for key, _, own in differences] == [("update.epochs", "77")]
    preset["losses"] = [{"use": "mine"}]
    write_recipe(tmp_path, 5, **preset)
    run = read_run(tmp_path)
    assert preset_differences(run) == ("", [])
    assert "Against the preset" not in report_page([run])


def test_a_seed_of_0_and_the_unit_of_memory_are_said(tmp_path: Path) -> None:
    write_recipe(tmp_path, 5)
    write_metrics(tmp_path, [])
    (tmp_path / "provenance.json").write_text('{"started": "", "command": [], "machine": {"memory": 23.5}}')
    lines = dict(facts(read_run(tmp_path)))
    assert (lines["seed"], lines["memory, GiB"]) == ("0", "23.5")
    assert not {"started", "command", "python"} & lines.keys()


def test_whole_groups_of_the_first_and_the_last_step_come_first(tmp_path: Path) -> None:
    run = read_run(learning_run(tmp_path, steps=9, groups=6))
    sizes = {step: len(rows) for step, rows in choose(run.steps, 30_000, 0).rows.items()}
    assert sizes[1] == sizes[9] == 24
    assert sum(sizes.values()) < 9 * 24
    everything = choose(run.steps, 1e9, 0)
    assert sum(map(len, everything.rows.values())) == 9 * 24


def test_long_responses_take_what_is_shown_of_them(tmp_path: Path) -> None:
    """2,000 tokens and 6,000 characters: some 100 kB each; with 10,000 tokens each as much."""
    for name, length in (("a", 2000), ("b", 10_000)):
        write_samples(tmp_path / name, 1, samples(1, [[0.1, 0.2, 0.3, 0.4]], [[length] * 4]))
    a, b = (choose(read_run(tmp_path / name).steps, 410_000, 0).rows for name in "ab")
    assert a == b == {1: dict.fromkeys(range(4), True)}
    assert choose(read_run(tmp_path / "b").steps, 0, 4000).rows == {1: dict.fromkeys(range(4), False)}


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


def test_what_moved_is_unknown_without_the_columns_that_say_it(tmp_path: Path) -> None:
    """As of a run without a reference and with `run.token_columns: false`."""
    learning_run(tmp_path)
    page = report_page([read_run(tmp_path)])
    assert "The samples have neither kl/k1, for want of a reference, nor log_ratio" in page
    assert "Likelier and less likely under training</h3>" in page
    columns = samples(1, [[0.1, 0.2]], [[2, 2]])
    columns["log_ratio"] = [[0.0, 0.0], [0.0, 0.0]]
    write_samples(tmp_path / "other", 1, columns)
    page = report_page([read_run(tmp_path / "other")])
    assert "The samples have neither" not in page
    assert "Less likely under training</h3>" in page


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


def test_what_only_steps_with_failures_have_is_zero_at_the_others(tmp_path: Path) -> None:
    """Of ten steps the first two and the last two are compared: 0 and (.5 + 0) / 2."""
    seldom = ("reward/judge/failed", "reward/judge/abstained", "reward/excluded", "rollout/failed")
    lines = [{"step": step, "reward/mean": 0.1} for step in range(1, 11)]
    lines[8] |= dict.fromkeys(seldom, 0.5)
    lines[4] |= {"reward/judge/scored": 0.25}
    lines[5]["reward/judge/failed"] = None  # not finite
    write_metrics(tmp_path, [{"step": 0, "eval/judge/failed": 0.5}, *lines])
    run = read_run(tmp_path)
    for name in seldom[1:]:
        assert run.series(name) == (list(range(1, 11)), [0.0] * 8 + [0.5, 0.0])
    assert run.series(seldom[0]) == ([1, 2, 3, 4, 5, 7, 8, 9, 10], [0.0] * 7 + [0.5, 0.0])
    assert run.series("reward/judge/scored") == (list(range(1, 11)), [1.0] * 4 + [0.25] + [1.0] * 5)
    assert run.series("eval/judge/failed") == ([0], [0.5])
    assert run.series("reward/other/failed") == ([], [])
    rows = {row.label: (row.before, row.after, row.link) for row in verdict_rows(run, Pool.of(run))}
    assert {label: row for label, row in rows.items() if label != "Reward" and "Evaluation" not in label} == {
        "judge: failed rewards": (0, 0.25, "#curve:reward/judge/failed"),
        "judge: abstained rewards": (0, 0.25, "#curve:reward/judge/abstained"),
        "Responses without a reward": (0, 0.25, "#curve:reward/excluded"),
        "Responses that the engine failed to give": (0, 0.25, "#curve:rollout/failed"),
    }
    curve = next(figure for figure in figures([run]) if figure.title == "rollout/failed")
    assert "0 at step 1, 0 at step 10" in curve.svg


def test_guards_stand_with_their_largest_value(tmp_path: Path) -> None:
    gaps = {1: 0.25, 2: 0.75, 3: 0.5}
    lines = [{"step": step, "reward/mean": 0.1, "rollout/logprob_gap": gap} for step, gap in gaps.items()]
    write_metrics(tmp_path, [*lines, {"step": 4, "reward/mean": 0.1, "policy/ratio_std_at_start": 0.0}])
    run = read_run(tmp_path)
    rows = {row.label: (row.before, row.after, row.detail) for row in verdict_rows(run, Pool.of(run))}
    assert rows["Sampler against trainer, nats (guard)"] == (
        0.25,
        0.5,
        "largest 0.75, limit: what the dtype explains",
    )
    assert rows["Ratio's deviation before a weight moves (guard)"] == (
        0,
        0,
        "largest 0, 0 is right",
    )
    write_recipe(tmp_path, 4, rollout={"max_logprob_gap": 1.5}, update={"old_logprobs": "sampler"})
    run = read_run(tmp_path)
    details = [row.detail for row in verdict_rows(run, Pool.of(run))]
    assert details[-2:] == ["largest 0.75, limit 1.5", "largest 0, by what sampler and trainer differ"]


def test_samples_of_one_step_do_not_stand_for_the_whole_run(tmp_path: Path) -> None:
    """Where others were removed, the metrics say how the reward went."""
    learning_run(tmp_path, steps=20)
    for path in (tmp_path / "rollouts").glob("*.parquet"):
        if "000012" not in path.name:
            path.unlink()
    run = read_run(tmp_path)
    assert "Reward rose from" in headline(run, Pool.of(run))
    values = run.series("reward/mean")[1]
    reward = verdict_rows(run, Pool.of(run))[0]
    assert reward.before == pytest.approx(sum(values[:4]) / 4)
    assert reward.after == pytest.approx(sum(values[-4:]) / 4)


def test_numbers_of_responses_and_of_steps_are_of_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where not all samples are read: the first and the last ten of fifty steps."""
    monkeypatch.setattr("ppokit.report.run_samples.MAX_FILES", 24)
    run = read_run(learning_run(tmp_path, steps=50, groups=2, size=2))
    rows = {row.label: row for row in verdict_rows(run, Pool.of(run))}
    values = run.series("reward/mean")[1]
    assert rows["Reward"].before == pytest.approx(sum(values[:10]) / 10)
    assert rows["Reward"].after == pytest.approx(sum(values[-10:]) / 10)
    assert rows["KL from the reference, nats per token"].before == pytest.approx(0.055)
    assert rows["KL from the reference, nats per token"].after == pytest.approx(0.455)


def test_sums_are_over_all_tokens_of_a_response(tmp_path: Path) -> None:
    """Of 2,500 tokens the page holds 2,000, and says so; what a tool wrote counts nowhere."""
    columns = samples(1, [[1.0, 0.5]], [[2500, 3]])
    columns["kl/k1"] = [[0.5] * 2500, [1.0, 100.0, 2.0]]
    columns["entropy"] = [[1.0] * 1250 + [2.0] * 1250, [1.0, 100.0, 4.0]]
    columns["loss_mask"] = [[True] * 2500, [True, False, True]]
    columns["advantages"] = [[0.0] * 2500, [1.0, 0.0, 2.0]]
    write_samples(tmp_path, 1, columns)
    long, short = data_of(report_page([read_run(tmp_path)]))["samples"]
    assert (len(long["tk"]["t"]), len(long["tk"]["kl"]), long["tk"]["of"]) == (2000, 2000, 2500)
    assert (long["tk"]["z"]["kl"], long["tk"]["z"]["entropy"]) == (1250, 1.5)
    assert long["tk"]["z"]["reward"] == long["s"] == 1
    assert "of" not in short["tk"]
    assert (short["tk"]["z"]["kl"], short["tk"]["z"]["entropy"], short["a"]) == (3, 2.5, 1.5)


def test_a_group_of_which_a_part_is_here_has_its_whole_numbers(tmp_path: Path) -> None:
    for step in (1, 2):
        write_samples(tmp_path, step, samples(step, [[0.25, 0.5, None, 1.5 * step], [1.0, 1.0]]))
    run = read_run(tmp_path)
    chosen = Chosen({1: {1: True, 4: True, 5: True}, 2: {0: False, 3: False, 4: False}})
    shown = shown_samples(run, chosen, texts=unknown_texts())
    prompts = dict(zip(shown.prompts, range(2), strict=True))
    first, second = prompts["prompt 0"], prompts["prompt 1"]
    assert shown.groups == {
        f"1 {first}": [4, 0.75, 1.5],
        f"2 {first}": [4, 1.25, 3],
        f"2 {second}": [2, 1, 1],
    }


def test_curves_of_very_many_steps_are_thinned(tmp_path: Path) -> None:
    """Their steps stand once; what was measured seldom keeps its own."""
    lines = [{"step": step, **{f"metric/{i}": step / 7 for i in range(9)}} for step in range(1, 3001)]
    for step in range(500, 3001, 500):
        lines[step - 1]["eval/judge"] = step / 1000
    write_metrics(tmp_path, [{"step": 0, "eval/judge": 0.0}, *lines])
    data = data_of(report_page([read_run(tmp_path)]))
    assert len(data["steps"]) == 1000
    assert (data["steps"][0], data["steps"][-1]) == (1, 3000)
    (values,) = data["metrics"]["metric/3"]
    assert values == [pytest.approx(step / 7, rel=1e-3) for step in data["steps"]]
    assert data["metrics"]["eval/judge"] == [[0, 0.5, 1, 1.5, 2, 2.5, 3], list(range(0, 3001, 500))]


def test_an_evaluators_own_gain_is_a_number_like_others(tmp_path: Path) -> None:
    """A gain is left out where it is that of another number."""
    names = ("mine/gain", "mine/scored", "judge", "judge/gain", "judge/gain_low", "judge/gain_high")
    write_metrics(tmp_path, [{"step": s, **{f"eval/{name}": s / 2 for name in names}} for s in (0, 5)])
    assert evaluation_metrics(read_run(tmp_path)) == ["eval/judge", "eval/mine/gain", "eval/mine/scored"]


def test_several_runs_have_phases_and_lines_of_their_own(tmp_path: Path) -> None:
    """Six colours, then the same dashed; a figure of phases per run, whose id is no metric's."""
    runs = []
    for i in range(8):
        write_metrics(tmp_path / f"run-{i}", [{"step": s, "a": s * i, "time/update_s": 1.0} for s in (1, 2)])
        runs.append(read_run(tmp_path / f"run-{i}"))
    by_title = {figure.title: figure for figure in figures(runs)}
    classes = re.findall(r'class="line (c\d d\d)"', by_title["a"].svg)
    assert classes == [*(f"c{i} d0" for i in range(6)), "c0 d1", "c1 d1"]
    assert [by_title[f"time by phase: run-{i}"].run for i in range(8)] == list(range(8))
    assert by_title["time by phase: run-3"].id == "curve:time by phase: run-3"
    assert by_title["time/update_s"].id == "curve:time/update_s"
    page = report_page(runs)
    assert page.count('<span class="key c1 d1"') >= 3  # the table's, the run's own, a legend's
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_curves_that_come_first(tmp_path: Path) -> None:
    first = ("reward/mean", "kl/k1", "eval/judge", "policy/entropy", "policy/clip_fraction")
    first += ("value/explained_variance", "response/length", "grad_norm", "memory/peak_gb")
    others = ("a", "reward/judge", "time/update_s", "z")
    write_metrics(tmp_path, [{"step": s, **dict.fromkeys((*others, *reversed(first)), s)} for s in (1, 2)])
    result = figures([read_run(tmp_path)])
    assert [figure.title for figure in result if figure.first] == [*first, "time by phase"]
    assert [figure.title for figure in result if not figure.first] == list(others)
