"""The recipes of recipes/uses: data, pages, two steps of each, and how figures become tables."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from ppokit.config.recipe import Recipe
from ppokit.trainer import PPOTrainer
from runs import REPOSITORY

BENCHMARK = REPOSITORY / "benchmarks" / "uses"
sys.path.insert(0, str(BENCHMARK))

from guards import GUARDS, length_loss, variety_loss  # noqa: E402
from intervals import interval  # noqa: E402
from results import digest, inputs, read_results, result_file, result_of, variety  # noqa: E402
from tables import answers, figures, filled, pages, table, verdict  # noqa: E402

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
    from real_data import HELD_OUT, SUGGESTED, mapped

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


SAME = {"sampled/repetition": 0.25, "texts/perplexity": 20.0}


def run(seed: int, before: list[float], after: list[float], **changes: Any) -> dict[str, Any]:
    """A run's result, as its file has it."""
    return {
        "use": "translation",
        "files": digest(inputs(USES["translation"])),
        "seed": seed,
        "date": "2026-11-28",
        "machine": {"cpu": "A CPU", "cores": 2, "dtype": "float32", "threads": 1, "torch": "2.11.0"},
        "steps": 14,
        "minutes": 4.6,
        "peak_gb": 3.14,
        "judge": {"name": "judge/score", "before": before, "after": after},
        "beside": {},
        "trivial": {"prompt": 8.0, "fixed": 9.0, "best": 9.5},
        "words": {"before": 10.0, "after": 10.4, "reference": 10.4},
        "distinct_2": {"before": 0.5, "after": 0.5, "reference": 1.1},
        "finished": [0.5, 1.0],
        "evaluation": {"before": SAME, "after": SAME},
        "answers": [{"prompt": "English: Good day.\nGerman:", "before": "Good day.", "after": "Guten Tag."}],
        **changes,
    }


TWO = [run(0, [10.0, 20.0], [12.0, 22.0]), run(1, [10.0, 20.0], [11.0, 21.0])]


class TestTables:
    def test_an_interval_draws_prompts_and_seeds(self) -> None:
        """Every prompt of a seed gains the same: one seed's interval is a point.

        Of two seeds that differ by 1 from their mean by .5, half of the draws have one of them alone: its
        distance from the mean is widened by sqrt(2).
        """
        assert interval(TWO[:1]) == (2.0, 2.0, 2.0)
        assert interval(TWO) == pytest.approx((1.5, 1.5 - 0.5 * 2**0.5, 1.5 + 0.5 * 2**0.5))

    def test_an_interval_of_prompts_is_that_of_their_mean(self) -> None:
        """100 differences of mean 0 and deviation 1: 1.96 standard errors to each side, within a fifth."""
        differences = [(-1.0) ** i for i in range(100)]
        mean, low, high = interval([run(0, [0.0] * 100, differences)])
        assert mean == 0
        assert low == pytest.approx(-0.196, rel=0.2)
        assert high == pytest.approx(0.196, rel=0.2)

    def test_a_row_has_every_figure(self) -> None:
        head, _, row, _, made, _, gained = table({"translation": TWO}, "..").splitlines()
        cells = dict(zip(*(map(str.strip, line.split("|")[1:-1]) for line in (head, row)), strict=True))
        assert cells["use"] == "[Translation](../translation)"
        assert (cells["before"], cells["after"]) == ("15", "16.5")
        assert cells["trivial answers"] == "the prompt 8; a fixed one 9, the best 9.5"
        assert cells["gain, 95 % interval"] == "+1.5 (+0.79 to +2.2)"
        assert cells["per seed"] == "+2, +1"
        assert (cells["words (references)"], cells["perplexity"]) == ("10.0 to 10.4 (10.4)", "+0%")
        assert (cells["repeated"], cells["finished"]) == ("25.0% to 25.0%", "50% to 100%")
        assert (cells["minutes"], cells["GB"]) == ("5", "3.1")
        assert made == "2026-11-28; A CPU, 1 of 2 cores, float32, torch 2.11.0."
        assert gained.startswith("Of 1 uses 1 have gained with an interval above 0. No guard has lost more")

    def test_what_was_measured_by_an_earlier_recipe_is_marked(self) -> None:
        text = table({"translation": [run(0, [1.0, 2.0], [2.0, 3.0], files="others")]}, "..")
        assert "| [Translation](../translation) \N{DAGGER} |" in text
        assert "\N{DAGGER}: by an earlier recipe or earlier data of the project's own." in text

    def test_a_second_number_stands_beside_the_gain(self) -> None:
        own = {"before": [0.0, 0.0], "after": [0.25, 0.25]}
        own_run = run(0, [0.0], [0.5], beside={"judge/f1_where_some": own}, trivial=None)
        assert (
            "| +0.5 (+0.5 to +0.5); of messages that have something to find +0.25 (+0.25 to +0.25) |"
            in table({"sensitive_information": [own_run]}, "..")
        )
        assert "Of messages that have something to find: gain +0.25 (" in figures(
            USES["sensitive_information"], [own_run], []
        )

    def test_what_did_not_gain_or_was_not_measured_counts_against(self) -> None:
        flat = run(0, [1.0, 2.0], [1.0, 2.0], evaluation={"before": {}, "after": {}})
        assert verdict({"translation": [flat]}).startswith("Of 1 uses 0 have gained")
        assert "In Translation a guard has lost more than 5% in the mean of its seeds." in verdict(
            {"translation": [flat]}
        )

    def test_a_guard_beyond_its_bound_is_bold(self) -> None:
        """What is not repeated and the pairs of words only down; perplexity only up."""
        before = {"texts/perplexity": 20.0, "sampled/repetition": 0.5}
        for factor, bold in ((0.9, (True, True, False)), (1.1, (False, False, True))):
            after = {name: number * factor for name, number in before.items()}
            after["sampled/repetition"] = 1 - 0.5 * factor
            moved = {
                "evaluation": {"before": before, "after": after},
                "distinct_2": {"before": 0.5, "after": 0.5 * factor, "reference": 1.1},
            }
            row = table({"translation": [run(0, [1.0, 2.0], [2.0, 3.0], **moved)]}, "..").splitlines()[2]
            change = f"{factor - 1:+.0%}"
            cells = [f"50.0% to {1 - 0.5 * factor:.1%}", f"{change} (+10%)", change]
            expected = [f"**{text}**" if own else text for text, own in zip(cells, bold, strict=True)]
            assert row.split(" | ")[8:11] == expected

    def test_one_seed_that_lost_too_much_is_named(self) -> None:
        """The mean of nothing and 8 % is within the bound, and the seed of 8 % is not."""
        runs = [
            run(seed, [1.0], [2.0], evaluation={"before": SAME, "after": SAME | {"texts/perplexity": after}})
            for seed, after in enumerate((20.0, 21.6))
        ]
        assert "| +4% (worst 8%) |" in table({"translation": runs}, "..")

    def test_a_length_is_worse_where_it_is_further_from_the_references(self) -> None:
        """On the other side all that it is off by counts: 20 words to 1 are no way to a reference's 10."""
        assert length_loss(20.0, 11.0, 10.0) == pytest.approx(-0.9)
        assert length_loss(20.0, 9.0, 10.0) == pytest.approx(0.1)
        assert length_loss(20.0, 1.0, 10.0) == pytest.approx(0.9)
        assert length_loss(10.0, 9.0, 10.0) == pytest.approx(0.1)
        assert length_loss(8.0, 10.4, 10.0) == pytest.approx(0.04)
        words = {"before": 9.6, "reference": 10.0}
        for after, cell in ((9.2, "9.6 to 9.2 (10.0)"), (9.0, "**9.6 to 9.0 (10.0)**")):
            row = table(
                {"translation": [run(0, [1.0, 2.0], [2.0, 3.0], words=words | {"after": after})]}, ".."
            )
            assert cell in row.splitlines()[2].split(" | ")

    def test_variety_that_people_do_not_have_is_not_lost(self) -> None:
        """Adverts of one town's restaurants are alike: the references have half of the untrained variety."""
        assert variety_loss(0.7, 0.5) < 0
        assert variety_loss(0.5, 0.5) == 0
        assert variety_loss(0.45, 0.5) == pytest.approx(0.1)
        assert variety_loss(0.9, 1.2) == pytest.approx(0.1)
        for after, cell in ((0.35, "-30% (-50%)"), (0.2, "**-60% (-50%)**")):
            of_references = {"before": 0.5, "after": after, "reference": 0.5}
            row = table({"translation": [run(0, [1.0], [2.0], distinct_2=of_references)]}, "..")
            assert cell in row.splitlines()[2].split(" | ")

    def test_distinct_2_is_of_as_many_pairs_before_and_after(self) -> None:
        """Of a-b, a-b, b-a and one pair more, two drawn are the two a-b once in six: 11/6 of 2 different."""
        assert variety(["x y z"], ["a b a b", "c d"]) == {"before": 1.0, "after": pytest.approx(11 / 12)}
        assert variety(["a b a b", "C D"], ["x y"]) == {"before": 1.0, "after": 1.0}
        assert variety(["A b", "a b"], ["a b c"])["before"] == 0.5
        assert math.isnan(variety(["word"], ["two words"])["after"])

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
        assert "15 before, 16.5 after; gain +1.5, 95 % interval +0.79 to +2.2 (2 seeds, 2 held" in sentence

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

    def test_the_plan_counts_parameters_as_transformers_does(self) -> None:
        from plan import SIZES
        from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

        for size, kind in zip(SIZES[:2], (LlamaConfig, Qwen2Config), strict=True):
            config = kind(
                hidden_size=size.hidden,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                num_key_value_heads=size.key_heads,
                intermediate_size=size.inner,
                vocab_size=size.vocabulary,
                tie_word_embeddings=size.tied,
            )
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            assert sum(own.numel() for own in model.parameters()) == size.parameters
            linear = [own for own in model.model.layers[0].modules() if isinstance(own, torch.nn.Linear)]
            assert sorted((own.in_features, own.out_features) for own in linear) == sorted(size.linear)

    def test_pages_are_as_their_results(self) -> None:
        for path, blocks in pages(BENCHMARK / "results").items():
            page = (REPOSITORY / path).read_text(encoding="utf-8")
            assert page == filled(page, blocks, path), "run benchmarks/uses/measure.py --render"

    def test_results_are_of_known_uses(self) -> None:
        for data in ("own", "real"):
            for name, runs in read_results(BENCHMARK / "results", data).items():
                assert isinstance(USES[name], Use)
                assert {run["judge"]["name"] for run in runs} == {USES[name].judge}


def test_what_could_be_said_to_any_customer_is_not_relevant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two references at a right angle: half a cosine for one's own, less that for the other's, 0 between."""
    vectors = {"late": [1.0, 0.0], "torn": [0.0, 1.0], "sorry": [0.5**0.5, 0.5**0.5]}

    def encoder(*_: Any) -> Any:
        return lambda texts: torch.tensor([vectors[text] for text in texts])

    monkeypatch.syspath_prepend(REPOSITORY)
    rewards = importlib.import_module("recipes.uses.customer_service.rewards")
    monkeypatch.setattr(rewards, "Encoder", encoder)
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"reference": text}) + "\n" for text in ("late", "torn")))
    options = SimpleNamespace(path=str(path), encoder="MiniLM")
    reward = rewards.Relevance(options, SimpleNamespace(device=torch.device("cpu")))
    rollout = SimpleNamespace(responses=["late", "torn", "sorry"], rows=[{"reference": "late"}] * 3)
    assert reward.score(rollout).scores.tolist() == pytest.approx([0.5, -0.5, 0.0])
