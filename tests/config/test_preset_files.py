"""Presets: what they stand for, what the recipe overrides, and where messages point."""

from __future__ import annotations

from typing import Any

import pytest

from ppokit.config.presets import expand, names
from ppokit.config.yaml_file import Document, override, parse, plain


def expanded(text: str) -> Document:
    document = parse(text)
    expand(document)
    return document


def test_every_algorithm_has_one() -> None:
    expected = "cispo dapo dr_grpo grpo gspo ppo reinforce_plus_plus remax rloo"
    assert names() == expected.split()


def test_a_recipe_without_one_is_left_alone() -> None:
    assert expanded("run: {steps: 3}").data == {"run": {"steps": 3}}


def test_keys_are_those_of_the_preset_unless_the_recipe_has_them() -> None:
    data = expanded(
        "preset: dapo\nrollout: {responses_per_prompt: 4, temperature: 0.5}\nrun: {steps: 3}"
    ).data
    assert "preset" not in data
    assert data["run"] == {"steps": 3}
    assert data["rollout"] == {"responses_per_prompt": 4, "dynamic_sampling": 3, "temperature": 0.5}
    assert data["losses"] == [{"use": "ppo_clip", "clip_low": 0.2, "clip_high": 0.28}]
    assert data["advantages"] == {"use": "group_relative", "normalise": True, "mask_truncated": True}


def test_another_component_replaces_the_section() -> None:
    """Else its options would be mixed with those of the preset's."""
    data = expanded("preset: ppo\nadvantages: {use: monte_carlo}").data
    assert data["advantages"] == {"use": "monte_carlo"}
    data = expanded("preset: ppo\nadvantages: {use: gae, lam: 0.5}").data
    assert data["advantages"] == {"use": "gae", "gamma": 1.0, "lam": 0.5, "whiten": "batch"}


def test_a_list_replaces_the_presets() -> None:
    assert expanded("preset: grpo\nlosses: [{use: reinforce}]").data["losses"] == [{"use": "reinforce"}]


def test_messages_point_to_the_line_of_the_preset() -> None:
    document = expanded("run: {steps: 3}\npreset: grpo\nadvantages: {epsilon: 0.1}\n")
    document.report("losses[1].weight", "one")
    document.report("advantages.normalise", "two")
    document.report("advantages.epsilon", "three")
    assert [problem.line for problem in document.problems] == [2, 2, 3]


def test_messages_name_an_override_that_chose_it() -> None:
    document = parse("run: {steps: 3}")
    override(document, ["preset=grpo"])
    expand(document)
    document.report("losses[1].weight", "one")
    assert "(from the override 'preset=grpo')" in document.problems[0].message


def test_keys_of_a_preset_can_be_overridden() -> None:
    document = expanded("preset: grpo")
    override(document, ["losses.1.weight=0.5", "advantages.normalise=false"])
    assert document.problems == []
    assert document.data["losses"][1]["weight"] == 0.5
    assert document.data["advantages"]["normalise"] is False


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("grop", "got 'grop' (text); expected cispo, dapo,"),
        ("grop", "did you mean 'grpo'?"),
        (["grpo"], "got a list of 1; expected cispo"),
        (None, "got null; expected cispo"),
        ("../recipe", "got '../recipe' (text)"),
    ],
)
def test_what_is_no_preset(value: Any, message: str) -> None:
    document = plain({"preset": value})
    expand(document)
    (problem,) = document.problems
    assert problem.key == "preset"
    assert message in problem.message
