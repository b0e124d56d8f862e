"""The recipes of recipes/uses: data, pages, two steps of each, and how figures become tables."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ppokit.config.recipe import Recipe
from ppokit.trainer import PPOTrainer
from runs import REPOSITORY

BENCHMARK = REPOSITORY / "benchmarks" / "uses"
sys.path.insert(0, str(BENCHMARK))

from guards import GUARDS  # noqa: E402
from intervals import interval  # noqa: E402
from results import digest, inputs, read_results, result_file, result_of  # noqa: E402
from tables import filled, pages  # noqa: E402

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


def words(text: str | list[str] | None) -> set[str]:
    return set(
        re.findall(r"\w+", " ".join(text or ()).lower() if isinstance(text, list) else (text or "").lower())
    )


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
        # Posts in a voice stand beside what is trained on alone: the judge compares with none.
        of_training = {"reference"} if name == "social_media" else set()
        assert {frozenset(row) for row in train} == {frozenset(row) | of_training for row in held_out}
        prompts = [" ".join(row["prompt"].lower().split()) for row in (*train, *held_out)]
        assert len(set(prompts)) == len(prompts)

    def test_no_held_out_prompt_is_one_to_train_on_in_other_words(self, name: str) -> None:
        """Nor is a reference: of a row's words that not every row has, at most two in three are shared."""
        for column in ("prompt", "reference"):
            parts = [[words(row.get(column)) for row in rows(name, part)] for part in ("train", "held_out")]
            common = set.intersection(*parts[0])
            for own in parts[1]:
                for other in parts[0]:
                    shared, either = (own & other) - common, (own | other) - common
                    assert len(shared) <= 2 / 3 * len(either), (column, own, other)

    def test_ratings_choices_and_posts_are_of_no_held_out_prompt(self, name: str) -> None:
        """What rewards are fitted to would else have been said of the prompts that they are judged on."""
        for path in (RECIPES / name).glob("*.csv"):
            with path.open(encoding="utf-8", newline="") as file:
                known = {cell for row in csv.reader(file) for cell in row}
            assert known.isdisjoint(row.get("topic", row["prompt"]) for row in rows(name, "held_out"))

    def test_it_has_two_rewards_and_a_kl_and_another_judge(self, name: str) -> None:
        content = recipe(name)
        rewards, losses = content["rewards"], content["losses"]
        assert any(entry["use"] in ("kl_penalty", "kl") for entry in (*rewards, *losses))
        paid = [entry for entry in rewards if entry["use"] != "kl_penalty" and entry.get("weight", 1.0) != 0]
        assert len(paid) >= 2
        judge, _, _ = USES[name].judge.partition("/")
        evaluators = content["evaluation"]["evaluators"]
        (evaluator,) = [entry for entry in evaluators if entry.get("name", entry["use"]) == judge]
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
        result = result_of(
            USES[name], tmp_path / "run", data="own", seed=0, known="", version="", threads=1, seconds=90.0
        )
        assert (result["steps"], len(result["answers"])) == (2, 3)
        assert len(result["judge"]["before"]) == len(result["judge"]["after"]) == 3
        assert result["words"]["before"] > 0
        assert result["words"]["reference"] > 0
        assert result["minutes"] == 1.5
        assert result["beside"].keys() == {number for number, _ in USES[name].beside}
        assert all(own["before"] for own in result["beside"].values())
        assert len(interval([result])) == 3
        assert all(0 <= share <= 1 for share in result["finished"])
        assert all(math.isfinite(guard.loss(result)) for guard in GUARDS.values())

    def test_two_steps_of_the_model_itself(self, name: str, tmp_path: Path) -> None:
        command = [BENCHMARK / "measure.py", name, "--seeds", "5", "--results", tmp_path, "--set", *SMALL]
        subprocess.run([sys.executable, *map(str, command)], check=True, timeout=600)
        (result,) = read_results(tmp_path, "own")[name]
        assert (result["seed"], result["steps"], len(result["answers"])) == (5, 2, 3)
        assert len(result["judge"]["before"]) == len(result["judge"]["after"]) == 3


@pytest.mark.parametrize("name", sorted({*NAMES} - {"customer_service"}))
def test_real_data_has_the_columns_of_the_recipes_own(
    name: str, shared_ratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import real_data
    from real_data import mapped
    from rows import HELD_OUT, SUGGESTED

    monkeypatch.setattr(real_data, "own_answers", lambda use, prompts: ["Sure."] * len(prompts))
    files, keys = mapped(USES[name], tmp_path)
    parts = [
        [json.loads(line) for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()]
        for part in ("train", "held_out")
    ]
    own_files = {"chatbots": "ratings.csv", "social_media": "posts.csv", "virtual_assistants": "choices.csv"}
    further = [own_files[name]] if name in own_files else []
    assert sorted(path.name for path in files) == sorted(["held_out.jsonl", "train.jsonl", *further])
    most = SUGGESTED if name in ("autocomplete", "predictive_text") else HELD_OUT
    assert 35 <= len(parts[1]) <= most
    assert len(parts[0]) >= 35
    for part, own in zip(("train", "held_out"), parts, strict=True):
        assert {frozenset(row) for row in own} == {frozenset(rows(name, part)[0])}
    assert {row["prompt"] for row in parts[0]}.isdisjoint(row["prompt"] for row in parts[1])
    texts = [text for part in parts for row in part for text in row.values()]
    assert all(text.strip() for own in texts for text in ([own] if isinstance(own, str) else own))
    references = [{str(row.get("reference")) for row in part} - {"{}", "None"} for part in parts]
    assert references[0].isdisjoint(references[1])
    if further:  # the reward reads nothing about held-out prompts
        content = (tmp_path / further[0]).read_text()
        assert not any(row.get("topic", row["prompt"]) in content for row in parts[1])
    assert f"prompts.path={tmp_path / 'train.jsonl'}" in keys
    if name == "sensitive_information":
        for row in parts[1]:
            message = row["prompt"].partition("\n")[0]
            assert all(text in message for texts in json.loads(row["reference"]).values() for text in texts)


def test_a_result_depends_on_the_keys_of_the_real_data_and_not_on_the_folder_it_lies_in(
    tmp_path: Path,
) -> None:
    assert len({digest([]), digest([], ["rewards.1.target=18"]), digest([], ["rewards.1.target=27"])}) == 3
    assert digest([], ["prompts.path=/one/train.jsonl"]) == digest([], ["prompts.path=/two/train.jsonl"])
    for folder, content in (("a", "1"), ("b", "2"), ("z", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text(content)
    one, two, three = (tmp_path / folder / "train.jsonl" for folder in "abz")
    assert digest([one, two]) == digest([two, three])
    assert digest([one]) != digest([two])


def test_what_is_done_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its recipe, the code that it names (of another use, too), its data or the texts change."""
    import measure

    def begin(command: list[str], **_: Any) -> SimpleNamespace:
        if command[0] == "git":
            return SimpleNamespace(stdout="0123456789ab\n")
        raise AssertionError(f"ran {command}")

    monkeypatch.setattr(measure.subprocess, "run", begin)
    monkeypatch.setattr(measure, "REPOSITORY", tmp_path)
    use = USES["predictive_text"]
    files = inputs(use)
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
    out = tmp_path / "runs" / "own" / "predictive_text-0"
    (out / "checkpoints" / "step-2").mkdir(parents=True)
    for end, goes_on in (
        ({"stopped_by": "SIGTERM", "error": None}, True),
        ({"stopped_by": None, "error": None}, False),
    ):
        (out / "end.json").write_text(json.dumps(end))
        with pytest.raises(AssertionError, match="ran") as ran:
            measure.run(use, 0, False, [], tmp_path)
        assert (f"'train', '--resume', '{out}'" in str(ran.value)) is goes_on
    assert not out.exists(), "a run that is done begins anew"


def test_a_version_is_dirty_by_its_code_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and pages are what a run writes: they are no other code."""
    import measure

    results = tmp_path / "benchmarks" / "uses" / "results"
    results.mkdir(parents=True)
    files = [results / "one.json", tmp_path / "README.md", tmp_path / "code.py"]
    for path in files:
        path.write_text("before")
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(measure, "REPOSITORY", tmp_path)
    commit = measure.version()
    assert re.fullmatch(r"[0-9a-f]{12}", commit)
    for path, version in zip(files, (commit, commit, f"{commit}-dirty"), strict=True):
        path.write_text("after")
        assert measure.version() == version


def test_pages_are_as_their_results() -> None:
    for path, blocks in pages(BENCHMARK / "results").items():
        page = (REPOSITORY / path).read_text(encoding="utf-8")
        assert page == filled(page, blocks, path), "run benchmarks/uses/measure.py --render"


def test_results_are_of_known_uses() -> None:
    for data in ("own", "real"):
        for name, runs in read_results(BENCHMARK / "results", data).items():
            assert isinstance(USES[name], Use)
            assert {run["judge"]["name"] for run in runs} == {USES[name].judge}
