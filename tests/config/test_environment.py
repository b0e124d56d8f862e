"""`${NAME}` in a recipe: resolved when it is read, never written out, and secrets only so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, SecretStr

from ppokit import Component, Options
from ppokit.config.recipe import Recipe
from ppokit.config.registry import PluginRegistry
from ppokit.errors import RecipeError

SECRET = "sk-123456789"


class Nested(Options):
    token: SecretStr | None = None


class Defaults(Options):
    token: SecretStr = SecretStr("")
    host: str = "a"


class JudgeOptions(Options):
    url: str = "http://localhost"
    key: SecretStr | None = None
    hosts: tuple[Nested, ...] = ()
    pin: SecretStr = SecretStr("none")
    pins: tuple[SecretStr, ...] = (SecretStr("none"),)
    defaults: Defaults = Defaults()
    arguments: dict[str, Any] = Field(default_factory=dict)
    tries: int = 1


class Registry(PluginRegistry):
    """One reward, `judge`, and whatever else is installed."""

    def component(self, kind: str, use: str) -> tuple[Component, str]:
        if use == "judge":
            return Component("judge", lambda options, context: None, JudgeOptions), "judge, test"
        return super().component(kind, use)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    monkeypatch.setenv("HOST", "example.org")
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')

    def load(*overrides: str, check_data: bool = True, **judge: Any) -> Recipe:
        data = {
            "model": {"name": "some/model"},
            "prompts": {"path": "prompts.jsonl"},
            "rewards": [{"use": "judge", **judge}],
            "advantages": {"use": "group_relative"},
            "losses": [{"use": "ppo_clip"}],
            "run": {"steps": 1, "out": "run"},
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        return Recipe.load(tmp_path / "r.yaml", overrides, Registry(), check_data=check_data)

    return load


def options(recipe: Recipe) -> JudgeOptions:
    chosen = recipe.rewards[0].options
    assert isinstance(chosen, JudgeOptions)
    return chosen


def test_a_secret_is_known_and_not_written(load: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load(key="${JUDGE_KEY}", url="https://${HOST}/v1", hosts=[{"token": "${JUDGE_KEY}"}])
    secret = options(recipe).key
    assert secret is not None
    assert secret.get_secret_value() == SECRET
    assert options(recipe).url == "https://example.org/v1"
    text = recipe.to_yaml()
    assert SECRET not in text
    assert "*" not in text
    assert recipe.resolved()["rewards"][0]["key"] == "${JUDGE_KEY}"
    assert recipe.resolved()["rewards"][0]["hosts"] == [{"token": "${JUDGE_KEY}"}]
    (tmp_path / "again.yaml").write_text(text)
    again = Recipe.load(tmp_path / "again.yaml", (), Registry())
    assert again == recipe
    assert again.to_yaml() == text


def test_a_secret_that_is_a_default_is_left_to_the_plugin(
    load: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Else a run could not be resumed: its own recipe would hold asterisks, as a secret in plain text."""
    recipe = load(defaults={"host": "b"})
    written = tmp_path / "written.yaml"
    written.write_text(recipe.to_yaml())
    reward = yaml.safe_load(recipe.to_yaml())["rewards"][0]
    assert not {"pin", "pins"} & set(reward)
    assert reward["defaults"] == {"host": "b"}
    assert Recipe.load(written, registry=Registry()).rewards[0].options == recipe.rewards[0].options


def test_overrides_and_keys_with_dots(load: Callable[..., Recipe]) -> None:
    recipe = load("rewards.0.url=${HOST}", arguments={"a.b": "${HOST}"})
    assert options(recipe).arguments == {"a.b": "example.org"}
    assert recipe.resolved()["rewards"][0]["arguments"] == {"a.b": "${HOST}"}
    assert recipe.resolved()["rewards"][0]["url"] == "${HOST}"


def test_two_dollars_are_a_text(load: Callable[..., Recipe]) -> None:
    recipe = load(url="$${HOST}")
    assert options(recipe).url == "${HOST}"
    assert recipe.resolved()["rewards"][0]["url"] == "$${HOST}"
    assert options(load(url="^a${2}$")).url == "^a${2}$", "no name: a regular expression stays as it is"


def test_a_variable_that_is_not_set_is_told_with_its_line(load: Callable[..., Recipe]) -> None:
    with pytest.raises(
        RecipeError, match=r"line \d+, rewards\[0\]\.key: the environment variable NOT_SET is"
    ):
        load(key="${NOT_SET}")
    assert load(key="${NOT_SET}", check_data=False).resolved()["rewards"][0]["key"] == "${NOT_SET}"


@pytest.mark.parametrize(
    ("judge", "key"),
    [({"key": SECRET}, "rewards[0].key"), ({"hosts": [{"token": SECRET}]}, "rewards[0].hosts[0].token")],
)
def test_a_secret_in_plain_text_is_refused(
    load: Callable[..., Recipe], judge: dict[str, Any], key: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(**judge)
    assert f"{key}: got a secret in plain text" in str(caught.value)
    assert "expected ${NAME}" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_message_shows_the_name_and_not_the_value(load: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tries="${JUDGE_KEY}")
    assert "got '${JUDGE_KEY}' (text); expected a whole number" in str(caught.value)
