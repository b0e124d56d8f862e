"""The recipe's section `evaluation`: its evaluators are components, its problems are told with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fake_plugins
from ppokit.config.json_schema import recipe_schema
from ppokit.config.recipe import Recipe
from ppokit.config.registry import PluginRegistry
from ppokit.errors import RecipeError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "topic": "t"}\n')
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "b"}\n')


def recipe(evaluation: Any, **sections: Any) -> dict[str, Any]:
    return {
        "model": {"name": "some/model"},
        "prompts": {"path": "prompts.jsonl"},
        "rewards": [{"use": "good"}],
        "advantages": {"use": "plain"},
        "losses": [{"use": "clip"}],
        "run": {"steps": 1, "out": "run"},
        "evaluation": evaluation,
        **sections,
    }


def load(evaluation: Any, **sections: Any) -> Recipe:
    return Recipe.from_dict(
        recipe(evaluation, **sections), PluginRegistry(entry_points=fake_plugins.entry_points())
    )


def problems(evaluation: Any, **sections: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load(evaluation, **sections)
    return str(caught.value)


def test_evaluators_are_components_within_the_section() -> None:
    loaded = load(
        {
            "every": 5,
            "prompts": {"path": "held_out.jsonl"},
            "evaluators": [{"use": "measure", "limit": 7}, {"use": "measure", "name": "again"}],
            "best": "eval/again/x",
        }
    )
    assert [(choice.name, choice.key, choice.kind) for choice in loaded.evaluators] == [
        ("measure", "evaluation.evaluators[0]", "evaluators"),
        ("again", "evaluation.evaluators[1]", "evaluators"),
    ]
    assert loaded.evaluators[0].options.limit == 7  # type: ignore[attr-defined]
    assert loaded.resolved()["evaluation"]["evaluators"][0] == {"use": "measure", "name": None, "limit": 7}
    registry = PluginRegistry(entry_points=fake_plugins.entry_points())
    assert Recipe.from_dict(loaded.resolved(), registry) == loaded
    assert loaded.evaluators[0] in loaded.selected


def test_without_the_section_nothing_is_evaluated() -> None:
    assert load(None).evaluators == ()


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (3, "evaluation: got 3; expected a mapping"),
        ({}, "evaluation.evaluators: this key is missing"),
        ({"evaluators": []}, "evaluation.evaluators: got an empty list"),
        ({"evaluators": [{"use": "mesure"}]}, "evaluation.evaluators[0].use: no evaluators plugin 'mesure'"),
        (
            {"evaluators": [{"use": "measure", "limt": 1}]},
            "evaluation.evaluators[0].limt: unknown key 'limt'",
        ),
        ({"evaluators": [{"use": "measure"}], "evry": 3}, "evaluation.evry: unknown key 'evry'"),
        ({"evaluators": [{"use": "measure"}]}, "evaluation.evaluators[0]: no held-out prompts"),
        ({"evaluators": [{"use": "measure"}] * 2}, "evaluation.evaluators[0] is named 'measure' as well"),
        (
            {"evaluators": [{"use": "measure"}], "prompts": {"path": "none.jsonl"}},
            "evaluation.prompts.path: there is no file none.jsonl",
        ),
        (
            {"evaluators": [{"use": "measure"}], "prompts": {"path": "held_out.jsonl", "column": "promt"}},
            "evaluation.prompts.column: held_out.jsonl has no column 'promt'; it has 'prompt'",
        ),
        (
            {"evaluators": [{"use": "measure"}], "best_is": "lowest"},
            "evaluation.best_is: got lowest without best; expected best",
        ),
        (
            {"evaluators": [{"use": "measure"}], "best": "eval/mesure/x"},
            "evaluation.best: got 'eval/mesure/x'; expected a metric of an evaluator of this recipe, "
            "beginning with eval/measure/; did you mean 'eval/measure/'?",
        ),
    ],
)
def test_problems(evaluation: Any, message: str) -> None:
    assert message in problems(evaluation)


def test_rewards_must_be_able_to_score_the_held_out_prompts() -> None:
    """`topic` is a column of the training prompts alone."""
    held_out = {"prompts": {"path": "held_out.jsonl"}, "evaluators": [{"use": "measure"}]}
    message = problems(held_out, rewards=[{"use": "good", "column": "topic"}])
    assert "evaluation.evaluators[0]: rewards[0] cannot score it: no column topic" in message
    assert message.count("no column topic") == 1


def test_the_schema_has_evaluators_within_the_section() -> None:
    schema = recipe_schema(PluginRegistry(entry_points=fake_plugins.entry_points()))
    evaluators = schema["$defs"]["EvaluationSettings"]["properties"]["evaluators"]
    assert evaluators["items"]["oneOf"][0] == {"$ref": "#/$defs/evaluators.measure"}
    assert "limit" in schema["$defs"]["evaluators.measure"]["properties"]
    assert "evaluators" not in schema["properties"]
