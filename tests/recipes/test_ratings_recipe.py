"""From a file of people's ratings to a better policy, by a recipe."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ppokit import PPOTrainer, Recipe, hookimpl
from ppokit.data import tables
from ppokit.data.formats import Table, parse_csv
from ppokit.errors import DataError, ModelError, RecipeError
from ppokit.evaluation.view import held_out_view
from ppokit.models.shared_base import SharedBaseModel
from ppokit.rollout.load_policy import load_policy
from runs import metrics_of, rollouts_of

RecipeDict = Callable[..., dict[str, Any]]

CSV = """prompt,response,rating,rater
Once upon a time, happy and smiled.,9,ann
Once upon a time, happy and smiled.,8,bob
Once upon a time, sad and cried.,1,ann
"One day, Tom", very happy.,10,ann
"One day, Tom", very sad.,0,ann
The dog was, happy too.,8,bob
The dog was, sad too.,2,bob
"""


class Ear:
    """An observer that hears warnings."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []

    @hookimpl
    def on_warning(self, step: int, text: str) -> None:
        self.heard.append((step, text))


@pytest.fixture
def ratings(tmp_path: Path) -> str:
    path = tmp_path / "ratings.csv"
    path.write_text(CSV)
    return str(path)


@pytest.fixture
def make(recipe_dict: RecipeDict, ratings: str) -> RecipeDict:
    """A recipe whose responses are the file's, rewarded by their ratings."""

    def make_recipe(**sections: Any) -> dict[str, Any]:
        given = {
            "prompts": {"path": ratings, "distinct": True},
            "rollout": {
                "use": "recorded",
                "path": ratings,
                "max_new_tokens": 24,
                "prompts_per_step": 3,
                "responses_per_prompt": 2,
            },
            "rewards": [{"use": "human_csv", "path": ratings}, {"use": "kl_penalty", "weight": 0.01}],
            "advantages": {"whiten": "batch"},
            "losses": [
                {"use": "ppo_clip"},
                {"use": "off_policy_correction", "level": "token", "mode": "truncate", "cap": 2.0},
                {"use": "value_clip", "weight": 0.1},
            ],
            **sections,
        }
        return recipe_dict(**given)

    return make_recipe


def test_rated_responses_are_the_rollouts(make: RecipeDict, tmp_path: Path) -> None:
    trainer = PPOTrainer(Recipe.from_dict(make()))
    assert trainer.components.prompts.texts == ["Once upon a time", "One day, Tom", "The dog was"]
    trainer.train()
    for step, rows in enumerate(rollouts_of(tmp_path / "run").values()):
        assert {row["response"] for row in rows} == {
            " happy and smiled.",
            " sad and cried.",
            " very happy.",
            " very sad.",
            " happy too.",
            " sad too.",
        }
        scores = {row["response"]: row["score"] for row in rows}
        assert scores[" happy and smiled."] == 8.5
        assert scores[" very sad."] == 0
        # Nobody knows who wrote them: as if it had been the reference.
        for row in rows:
            assert all(math.isfinite(number) and number < 0 for number in row["sampler_logprobs"])
            moved = [abs(number) for number in row["kl/k1"]]
            assert (max(moved) < 1e-4) == (step == 0)
    lines = metrics_of(tmp_path / "run")
    assert [line["reward/human_csv/coverage"] for line in lines] == [1.0] * 3
    assert lines[0]["off_policy/weight"] == pytest.approx(1, abs=1e-3)


def test_what_was_rated_well_becomes_likelier(make: RecipeDict, tmp_path: Path) -> None:
    recipe = make(run={"steps": 8, "out": str(tmp_path / "run")})
    PPOTrainer(Recipe.from_dict(recipe)).train()

    def gap(rows: list[dict[str, Any]]) -> float:
        """k1 is the log-probability less that of the reference."""
        risen = {row["response"]: sum(row["kl/k1"]) / len(row["kl/k1"]) for row in rows}
        return sum(risen[t] for t in risen if "happy" in t) - sum(risen[t] for t in risen if "sad" in t)

    rollouts = list(rollouts_of(tmp_path / "run").values())
    assert abs(gap(rollouts[0])) < 1e-3
    assert gap(rollouts[-1]) > 0.1


def test_sampled_responses_beside_recorded_ones(make: RecipeDict, ratings: str, tmp_path: Path) -> None:
    """Nobody rated what is sampled: exact abstains, and nearest judges it by what was rated."""
    rollout = {
        "use": "recorded",
        "path": ratings,
        "recorded": 0.5,
        "max_new_tokens": 8,
        "prompts_per_step": 3,
        "responses_per_prompt": 4,
    }
    rewards = [
        {"use": "human_csv", "path": ratings, "name": "exact"},
        {"use": "human_csv", "path": ratings, "match": "nearest", "floor": -0.99, "name": "nearest"},
    ]
    PPOTrainer(Recipe.from_dict(make(rollout=rollout, rewards=rewards))).train()
    recorded = 0
    for rows in rollouts_of(tmp_path / "run").values():
        for row in rows:
            given = row["outcome/exact"] == "scored"
            recorded += given
            assert row["outcome/nearest"] == "scored"
            assert 0 <= row["reward/nearest"] <= 10
            assert given or row["reward/exact"] != row["reward/exact"]
    assert 8 <= recorded <= 28, "about half of 36"
    line = metrics_of(tmp_path / "run")[0]
    assert line["reward/exact/abstained"] == pytest.approx(1 - line["reward/exact/coverage"])


def test_a_trained_policy_does_not_read_out_what_people_wrote(make: RecipeDict, ratings: str) -> None:
    """Asked for a drawn answer to a prompt of the file; the file may be gone by then."""
    recipe = Recipe.from_dict(make())
    Path(ratings).unlink()
    written = {row["response"] for row in csv.DictReader(io.StringIO(CSV))}
    responses = load_policy(recipe, None).generate(["Once upon a time", "The dog was"], n=1).responses
    assert not written & set(responses)
    assert responses == load_policy(recipe, None).generate(["Once upon a time", "The dog was"], n=1).responses


def test_the_bases_hidden_states_are_those_of_transformers(make: RecipeDict, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["Tom ran home.", "A big dog", ""]
    trainer = PPOTrainer(Recipe.from_dict(make()))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    ids = [tokenizer(text)["input_ids"] or [tokenizer.eos_token_id] for text in texts]
    embeddings = SharedBaseModel(trainer.roles, 40).embed(ids)
    for row, tokens in zip(embeddings, ids, strict=True):
        with torch.no_grad():
            mean = model.model(torch.tensor([tokens])).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_without_a_frozen_base_an_encoder_must_be_named(make: RecipeDict, ratings: str) -> None:
    rewards = [{"use": "human_csv", "path": ratings, "match": "nearest"}]
    losses = [{"use": "ppo_clip"}]
    plain = {"max_new_tokens": 4, "prompts_per_step": 3}
    given = make(
        rewards=rewards, losses=losses, rollout=plain, lora=None, advantages={"use": "gae"}, value=None
    )
    trainer = PPOTrainer(Recipe.from_dict(given))
    with pytest.raises(ModelError, match="would drift; name an encoder"):
        SharedBaseModel(trainer.roles, 40).embed([[1]])


def test_a_bad_file_is_refused_before_anything_loads(make: RecipeDict, ratings: str) -> None:
    Path(ratings).write_text(CSV.replace(",10,ann", ",ten,ann"))
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(make())
    message = str(caught.value)
    assert message.count("row 5") == 2, "the engine and the reward read it"
    assert "rewards[0]" in message
    assert "rollout" in message


def test_left_out_rows_are_told_once_and_in_plain_words(
    make: RecipeDict, ratings: str, tmp_path: Path, ppokit: Callable[..., Any]
) -> None:
    """Though several components read the file, when they are checked and when they are built."""
    with Path(ratings).open("a") as file:
        file.write("The dog was, odd.,many,ann\n")
    sections = make(
        rollout={"use": "recorded", "path": ratings, "on_bad_row": "skip", "max_new_tokens": 24},
        rewards=[{"use": "human_csv", "path": ratings, "on_bad_row": "skip"}],
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    completed = ppokit("validate", "recipe.yaml")
    assert completed.returncode == 0, completed.stderr
    warning_lines = [line for line in completed.stderr.splitlines() if "left out" in line]
    assert warning_lines == [line for line in warning_lines if line.startswith("ppokit: warning: ")]
    assert len(warning_lines) == 1
    assert "row 9: rating is 'many'" in warning_lines[0]


def test_the_canary_is_measured_and_warns(
    recipe_dict: RecipeDict,
    ratings: str,
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    """A reward that rises whatever the policy says, and is higher for what people dislike."""
    monkeypatch.chdir(tmp_path)
    reward_module(
        "CALLS = []\n"
        "def reward(responses, **columns):\n"
        "    CALLS.append(1)\n"
        "    return [len(CALLS) + float('sad' in text) for text in responses]\n"
    )
    given = recipe_dict(
        prompts={"path": ratings, "distinct": True},
        rollout={
            "use": "recorded",
            "path": ratings,
            "max_new_tokens": 16,
            "prompts_per_step": 3,
            "responses_per_prompt": 2,
        },
        rewards=[{"use": "python", "function": "my_rewards.reward"}, {"use": "kl_penalty", "weight": 0.001}],
        advantages={"whiten": "batch"},
        evaluation={"every": 5, "evaluators": [{"use": "canary", "path": ratings}]},
        update={"learning_rate": 1e-2, "epochs": 2},
        run={"steps": 16, "out": str(tmp_path / "run"), "checkpoint_every": 8},
    )
    ear = Ear()
    PPOTrainer(Recipe.from_dict(given), observers=[ear]).train()
    lines = metrics_of(tmp_path / "run")
    measured = {line["step"]: line for line in lines if "eval/canary/policy_spearman" in line}
    assert list(measured) == [0, 5, 10, 15, 16]
    assert measured[0]["eval/canary/reward_spearman"] < -0.7, "the reward is wrong from the start"

    def fell(line: dict[str, Any]) -> bool:
        """Since the first evaluation, by more than the standard error of six ratings."""
        names = ("eval/canary/policy_spearman", "eval/canary/reward_spearman")
        return any(measured[0][name] - line[name] > 1 / math.sqrt(5) for name in names if name in line)

    warned = [step for step, line in measured.items() if line["eval/canary/warning"] == 1]
    assert warned == [step for step, line in measured.items() if fell(line)]
    (at, overlap), *others = ear.heard
    assert at == 0, "once, before it is trained"
    assert "6 of the 6 rated responses" in overlap
    assert [step for step, _ in others] == warned
    assert 16 in warned
    assert "rose from" in ear.heard[-1][1]

    # A resumed run's steps are compared with the run's first, too.
    PPOTrainer(
        Recipe.load(tmp_path / "run" / "recipe.yaml", ["run.steps=18", "evaluation.every=1"]),
        observers=[ear],
        resume=tmp_path / "run",
    ).train()
    resumed = metrics_of(tmp_path / "run")[-2:]
    assert [line["step"] for line in resumed] == [17, 18]
    assert [line["eval/canary/warning"] for line in resumed] == [float(fell(line)) for line in resumed]
    assert [step for step, _ in ear.heard if step > 16] == [line["step"] for line in resumed if fell(line)]


def test_the_canary_reads_its_files_columns_and_computes_no_more_than_it_must(
    recipe_dict: RecipeDict, reward_module: Callable[[str], None], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    reward_module(
        "SEEN = []\n"
        "def reward(responses, number, **others):\n"
        "    SEEN.append((number, sorted(others)))\n"
        "    return [float(n) for n in number]\n"
    )
    held_out = tmp_path / "held_out.csv"
    held_out.write_text(
        "prompt,response,rating,number,responses\n"
        "The dog,ran.,1,3,x\nThe cat,sat.,2,1,x\nA bird,flew.,3,2,x\n"
    )
    given = recipe_dict(
        rewards=[{"use": "python", "function": "my_rewards.reward"}],
        evaluation={"evaluators": [{"use": "canary", "path": str(held_out), "separator": " "}]},
    )
    trainer = PPOTrainer(Recipe.from_dict(given))
    metrics = trainer.evaluate()
    import my_rewards  # type: ignore[import-not-found]

    # Numbers, as in the prompts' data; not the rating, nor other columns than those of the data.
    assert my_rewards.SEEN == [([3, 1, 2], ["prompt", "prompts"])]
    assert metrics["eval/canary/reward_spearman"] == pytest.approx(-0.5)  # ranks 3 1 2 against 1 2 3
    view = held_out_view(trainer.components, trainer.collector, 0)
    rollout = view.recorded(["The dog"], ["ran."], separator=" ")
    spoken = trainer.components.tokenizer(" ran.", add_special_tokens=False)["input_ids"]
    assert rollout.response_ids[0].tolist()[: len(spoken)] == spoken
    plain = trainer.recorded(["The dog"], ["ran."])
    assert plain.response_ids[0].tolist()[: len(spoken)] != spoken
    assert rollout.values is None
    assert plain.values is not None, "training needs them"


def test_a_canary_that_lacks_a_rewards_column_is_refused(
    recipe_dict: RecipeDict,
    ratings: str,
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    reward_module("def reward(responses, number):\n    return [float(n) for n in number]\n")
    rewards = [{"use": "python", "function": "my_rewards.reward"}]
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(
            recipe_dict(rewards=rewards, evaluation={"evaluators": [{"use": "canary", "path": ratings}]})
        )
    message = str(caught.value)
    assert f"evaluation.evaluators[0]: path: {ratings}: rewards[0] cannot score it" in message
    assert "needs 'number'" in message
    assert message.count("needs 'number'") == 1


def test_a_step_without_any_reward_is_told(
    recipe_dict: RecipeDict, reward_module: Callable[[str], None], tmp_path: Path, monkeypatch: Any
) -> None:
    """As where `exact` matches none of the responses that the policy samples."""
    monkeypatch.chdir(tmp_path)
    reward_module("def reward(responses, number):\n    return [None for _ in responses]\n")
    rewards = [{"use": "python", "function": "my_rewards.reward"}]
    ear = Ear()
    given = recipe_dict(rewards=rewards, run={"steps": 2, "out": str(tmp_path / "run")})
    PPOTrainer(Recipe.from_dict(given), observers=[ear]).train()
    assert [step for step, _ in ear.heard] == [1, 2]
    assert "no response of this step has a reward" in ear.heard[0][1]


def test_a_canary_cell_of_another_kind_is_told(
    recipe_dict: RecipeDict, reward_module: Callable[[str], None], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    reward_module("def reward(responses, number):\n    return [float(n) for n in number]\n")
    held_out = tmp_path / "held_out.csv"
    held_out.write_text("prompt,response,rating,number\nThe dog,ran.,1,3\nThe cat,sat.,2,one\n")
    given = recipe_dict(
        rewards=[{"use": "python", "function": "my_rewards.reward"}],
        evaluation={"evaluators": [{"use": "canary", "path": str(held_out)}]},
    )
    with pytest.raises(DataError, match=r"row 3 has 'one' in 'number', where the prompts have a int"):
        PPOTrainer(Recipe.from_dict(given)).train()


@pytest.mark.parametrize("asked", ["canary", "recorded", "recorded column"])
def test_nothing_stands_between_the_turns_of_a_chat(
    asked: str, recipe_dict: RecipeDict, ratings: str
) -> None:
    given = recipe_dict()
    source = {"column": "prompt"} if asked == "recorded column" else {"path": ratings}
    if asked == "canary":
        given["evaluation"] = {"evaluators": [{"use": "canary", "separator": " ", **source}]}
    else:
        given["rollout"] |= {"use": "recorded", "separator": " ", **source}
    given["prompts"]["chat"] = True
    with pytest.raises(RecipeError, match=r"separator: got ' ' with prompts.chat: true"):
        Recipe.from_dict(given)
    given["prompts"]["chat"] = False
    Recipe.from_dict(given)


def test_a_file_is_parsed_once_in_a_run(
    make: RecipeDict, ratings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, recorded responses, ratings and held-out ratings of one file, checked and used."""
    os.utime(ratings, (1_000, 1_000))
    parsed: list[str] = []

    def counted(text: str, path: str, known: Collection[str]) -> Table:
        parsed.append(path)
        return parse_csv(text, path, known)

    monkeypatch.setattr(tables, "parse_csv", counted)
    evaluation = {"evaluators": [{"use": "canary", "path": ratings}]}
    run = {"steps": 2, "out": str(tmp_path / "run"), "sample_every": 0}
    PPOTrainer(Recipe.from_dict(make(evaluation=evaluation, run=run))).train()
    assert parsed == [ratings]
