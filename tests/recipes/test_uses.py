"""The recipes of recipes/uses: data, pages, two steps of each, and how figures become tables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppokit.config.recipe import Recipe
from ppokit.trainer import PPOTrainer
from runs import REPOSITORY

BENCHMARK = REPOSITORY / "benchmarks" / "uses"
sys.path.insert(0, str(BENCHMARK))

from results import digest, inputs, interval, read_results, result_file, result_of  # noqa: E402
from tables import answers, figures, filled, length_loss, pages, table  # noqa: E402

from uses import RECIPES, USES, Use  # noqa: E402

NAMES = sorted(path.parent.name for path in RECIPES.glob("*/recipe.yaml"))
SECTIONS = (
    "What it teaches",
    "What is rewarded, and why",
    "What it is judged by",
    "What it does not do",
    "Your own data",
)


SMALL = (
    "run.steps=2",
    "rollout.prompts_per_step=2",
    "evaluation.prompts.limit=3",
    "evaluation.texts.limit=2",
)


def rows(name: str, part: str) -> list[dict[str, Any]]:
    lines = (RECIPES / name / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def recipe(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((RECIPES / name / "recipe.yaml").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    "name", [str(path.relative_to(RECIPES.parent)) for path in sorted(RECIPES.parent.rglob("*.yaml"))]
)
def test_a_run_reads_the_recipe_that_it_wrote(name: str, tmp_path: Path) -> None:
    """To go on: it gives every key, those too that its author left out."""
    written = Recipe.load(RECIPES.parent / name).to_yaml()
    own = tmp_path / "recipe.yaml"
    own.write_text(written, encoding="utf-8")
    assert Recipe.load(own).to_yaml() == written


def test_every_use_is_measured() -> None:
    assert sorted(USES) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestEach:
    def test_half_of_its_prompts_are_held_out(self, name: str) -> None:
        train, held_out = rows(name, "train"), rows(name, "held_out")
        assert 60 <= len(train) + len(held_out) <= 200
        assert len(train) == len(held_out)
        assert {frozenset(row) for row in train} == {frozenset(row) for row in held_out}
        prompts = [" ".join(row["prompt"].lower().split()) for row in (*train, *held_out)]
        assert len(set(prompts)) == len(prompts)

    def test_it_has_two_rewards_and_a_kl_and_another_judge(self, name: str) -> None:
        content = recipe(name)
        rewards, losses = content["rewards"], content["losses"]
        assert any(entry["use"] in ("kl_penalty", "kl") for entry in (*rewards, *losses))
        paid = [entry for entry in rewards if entry["use"] != "kl_penalty" and entry.get("weight", 1.0) != 0]
        assert len(paid) >= 2
        judge, _, number = USES[name].judge.partition("/")
        evaluators = content["evaluation"]["evaluators"]
        (evaluator,) = [entry for entry in evaluators if entry.get("name", entry["use"]) == judge]
        if evaluator["use"] == "rewards":  # by a reward that is measured and not paid
            assert number.startswith("score/")
            assert number.removeprefix("score/") not in {entry.get("name", entry["use"]) for entry in paid}
        else:
            assert (evaluator["use"], evaluator.get("metric")) not in {
                (entry["use"], entry.get("metric")) for entry in paid
            }

    def test_its_page_says_what_it_must_on_a_screen(self, name: str) -> None:
        page = (RECIPES / name / "README.md").read_text(encoding="utf-8")
        assert re.findall(r"^\*\*([^*]+)\.\*\*", page, re.MULTILINE) == list(SECTIONS)
        assert f"ppokit train recipes/uses/{name}/recipe.yaml" in page
        assert "https://huggingface.co/datasets/" in page.partition("**Your own data.**")[2]
        assert len(page.splitlines()) <= 65

    def test_two_steps(
        self, name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the tests' own model, with everything else as the recipe has it."""
        monkeypatch.chdir(REPOSITORY)
        small = [*SMALL, f"model.name={tiny_model}", f"run.out={tmp_path / 'run'}"]
        PPOTrainer(Recipe.load(RECIPES / name / "recipe.yaml", small)).train()
        result = result_of(USES[name], tmp_path / "run", data="own", seed=0, known="", threads=1)
        assert (result["steps"], len(result["answers"])) == (2, 3)
        assert len(result["judge"]["before"]) == len(result["judge"]["after"]) == 3
        assert result["words"]["before"] > 0

    def test_two_steps_of_the_model_itself(self, name: str, tmp_path: Path) -> None:
        command = [BENCHMARK / "measure.py", name, "--seeds", "5", "--results", tmp_path, "--set", *SMALL]
        subprocess.run([sys.executable, *map(str, command)], check=True, timeout=600)
        (result,) = read_results(tmp_path, "own")[name]
        assert (result["seed"], result["steps"], len(result["answers"])) == (5, 2, 3)
        assert len(result["judge"]["before"]) == len(result["judge"]["after"]) == 3


@pytest.mark.parametrize(
    "name", ["autocomplete", "predictive_text", "sensitive_information", "summarisation", "translation"]
)
def test_real_data_has_the_columns_of_the_recipes_own(
    name: str, shared_ratings: Path, tmp_path: Path
) -> None:
    from real_data import HELD_OUT, mapped

    files, keys = mapped(USES[name], tmp_path)
    parts = [
        [json.loads(line) for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()]
        for part in ("train", "held_out")
    ]
    assert sorted(path.name for path in files) == ["held_out.jsonl", "train.jsonl"]
    assert len(parts[1]) == HELD_OUT <= len(parts[0])
    assert {frozenset(row) for part in parts for row in part} == {frozenset(rows(name, "train")[0])}
    assert {row["prompt"] for row in parts[0]}.isdisjoint(row["prompt"] for row in parts[1])
    assert all(row["reference"].strip() for part in parts for row in part)
    assert f"prompts.path={tmp_path / 'train.jsonl'}" in keys
    if name == "sensitive_information":
        for row in parts[1]:
            message = row["prompt"].partition("\n")[0]
            assert all(text in message for texts in json.loads(row["reference"]).values() for text in texts)


def test_what_is_done_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its recipe, the code that it names (of another use, too), its data or the texts change."""
    import measure

    def begin(command: list[str], **_: Any) -> None:
        raise AssertionError(f"ran {command}")

    monkeypatch.setattr(measure.subprocess, "run", begin)
    monkeypatch.setattr(measure, "REPOSITORY", tmp_path)
    use = USES["predictive_text"]
    files = inputs(use, measure.own_data(use))
    assert {path.relative_to(RECIPES).as_posix() for path in files} == {
        "predictive_text/recipe.yaml",
        "predictive_text/train.jsonl",
        "predictive_text/held_out.jsonl",
        "autocomplete/rewards.py",
        "texts.txt",
    }
    path = result_file(tmp_path, "own", use.name, 0)
    path.parent.mkdir()
    path.write_text(json.dumps({"digest": digest(files)}))
    assert measure.run(use, 0, False, [], tmp_path)
    path.write_text(json.dumps({"digest": "of another recipe"}))
    with pytest.raises(AssertionError, match=rf"ran .*'train', '{use.folder}/recipe.yaml', 'run.seed=0'"):
        measure.run(use, 0, False, [], tmp_path)
    (tmp_path / "runs" / "uses" / "own" / "predictive_text-0" / "checkpoints" / "step-2").mkdir(parents=True)
    with pytest.raises(AssertionError, match=r"ran .*'train', '--resume', '"):
        measure.run(use, 0, False, [], tmp_path)


def run(seed: int, before: list[float], after: list[float], **changes: Any) -> dict[str, Any]:
    """A run's result, as its file has it."""
    return {
        "use": "translation",
        "recipe": digest(inputs(USES["translation"], [])),
        "seed": seed,
        "date": "2026-11-28",
        "machine": {"processor": "A CPU", "cores": 2, "threads": 1, "torch": "2.11.0"},
        "steps": 14,
        "minutes": 4.6,
        "peak_gb": 3.14,
        "judge": {"name": "judge/score", "before": before, "after": after},
        "words": {"before": 10.0, "after": 10.4, "person": None},
        "evaluation": {"before": {}, "after": {}},
        "answers": [{"prompt": "English: Good day.\nGerman:", "before": "Good day.", "after": "Guten Tag."}],
        **changes,
    }


TWO = [run(0, [10.0, 20.0], [12.0, 22.0]), run(1, [10.0, 20.0], [11.0, 21.0])]


class TestTables:
    def test_an_interval_draws_prompts_and_seeds(self) -> None:
        """Every prompt of a seed gains the same: one seed's interval is a point, two seeds' their gains."""
        assert interval(TWO[:1]) == (2.0, 2.0, 2.0)
        assert interval(TWO) == (1.5, 1.0, 2.0)

    def test_an_interval_of_prompts_is_that_of_their_mean(self) -> None:
        """100 differences of mean 0 and deviation 1: 1.96 standard errors to each side, within a fifth."""
        differences = [(-1.0) ** i for i in range(100)]
        mean, low, high = interval([run(0, [0.0] * 100, differences)])
        assert mean == 0
        assert low == pytest.approx(-0.196, rel=0.2)
        assert high == pytest.approx(0.196, rel=0.2)

    def test_a_row_has_every_figure(self) -> None:
        head, _, row, _, made = table({"translation": TWO}, "..").splitlines()
        cells = dict(zip(*(map(str.strip, line.split("|")[1:-1]) for line in (head, row)), strict=True))
        assert cells["use"] == "[Translation](../translation)"
        assert (cells["before"], cells["after"]) == ("15", "16.5")
        assert cells["gain, 95 % interval"] == "+1.5 (+1 to +2)"
        assert cells["per seed"] == "+2, +1"
        assert (cells["words (a person's)"], cells["perplexity"]) == ("10.0 to 10.4", "-")
        assert (cells["minutes"], cells["GB"]) == ("5", "3.1")
        assert made == "2026-11-28; A CPU, 1 of 2 cores, torch 2.11.0."

    def test_what_was_measured_by_an_earlier_recipe_is_marked(self) -> None:
        text = table({"translation": [run(0, [1.0, 2.0], [2.0, 3.0], recipe="another")]}, "..")
        assert "| [Translation](../translation) \N{DAGGER} |" in text
        assert text.endswith("\N{DAGGER}: by an earlier recipe.")

    def test_a_guard_beyond_its_bound_is_bold(self) -> None:
        """What is not repeated and the pairs of words only down; perplexity only up."""
        before = {"sampled/distinct_2": 0.5, "texts/perplexity": 20.0, "sampled/repetition": 0.5}
        for factor, bold in ((0.9, (True, True, False)), (1.1, (False, False, True))):
            after = {name: number * factor for name, number in before.items()}
            after["sampled/repetition"] = 1 - 0.5 * factor
            moved = {"before": before, "after": after}
            row = table(
                {"translation": [run(0, [1.0, 2.0], [2.0, 3.0], evaluation=moved)]}, ".."
            ).splitlines()[2]
            change = f"{factor - 1:+.0%}"
            assert row.split(" | ")[7:10] == [f"**{change}**" if own else change for own in bold]

    def test_a_length_is_worse_where_it_is_further_from_a_persons(self) -> None:
        """Without a person's it is worse either way."""
        assert length_loss(10.0, 9.0, None) == pytest.approx(0.1)
        assert length_loss(10.0, 11.0, None) == pytest.approx(0.1)
        assert length_loss(20.0, 11.0, 10.0) == pytest.approx(-0.9)
        assert length_loss(20.0, 4.0, 10.0) == pytest.approx(-0.4)
        assert length_loss(10.0, 9.0, 10.0) == pytest.approx(0.1)
        words = {"before": 9.6, "after": 9.0, "person": 10.0}
        for after, cell in ((9.2, "9.6 to 9.2 (10.0)"), (9.0, "**9.6 to 9.0 (10.0)**")):
            row = table(
                {"translation": [run(0, [1.0, 2.0], [2.0, 3.0], words=words | {"after": after})]}, ".."
            )
            assert cell in row.splitlines()[2].split(" | ")

    def test_seeds_of_different_data_are_not_put_together(self, tmp_path: Path) -> None:
        for seed, known in enumerate(("old", "new", "new")):
            path = result_file(tmp_path, "own", "translation", seed)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(run(seed, [1.0] * (seed + 1), [2.0] * (seed + 1), digest=known)))
        assert [result["seed"] for result in read_results(tmp_path, "own")["translation"]] == [1, 2]

    def test_what_was_not_run_is_left_out(self) -> None:
        assert table({}, "..") == ""
        assert figures(USES["translation"], [], []) == answers([]) == ""
        sentence = figures(USES["translation"], TWO, TWO[:1])
        assert sentence.count("\n") == 1
        assert "15 before, 16.5 after; gain +1.5, 95 % interval +1 to +2 (2 seeds, 2 held-out" in sentence

    def test_no_answer_can_end_its_block(self) -> None:
        hostile = run(0, [1.0], [1.0])
        hostile["answers"][0]["after"] = "```\n<script>\x1b[2J\u202e"
        *inside, last = answers([hostile]).splitlines()[1:]
        assert last == "```"
        assert not [line for line in inside if "```" in line or not line.isprintable()]
        assert len(inside) == 3

    def test_only_what_is_between_the_marks_changes(self) -> None:
        page = "before\n<!-- own -->\nold\n<!-- /own -->\nafter\n"
        assert (
            filled(page, {"own": "new \\1"}, "p")
            == "before\n<!-- own -->\n\nnew \\1\n\n<!-- /own -->\nafter\n"
        )
        with pytest.raises(ValueError, match=r"p has the marks <!-- real -->"):
            filled(page, {"real": ""}, "p")

    def test_pages_are_as_their_results(self) -> None:
        for path, blocks in pages(BENCHMARK / "results").items():
            page = (REPOSITORY / path).read_text(encoding="utf-8")
            assert page == filled(page, blocks, path), "run benchmarks/uses/measure.py --render"

    def test_results_are_of_known_uses(self) -> None:
        for data in ("own", "real"):
            for name, runs in read_results(BENCHMARK / "results", data).items():
                assert isinstance(USES[name], Use)
                assert {run["judge"]["name"] for run in runs} == {USES[name].judge}
