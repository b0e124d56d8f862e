"""Every recipe that ships is a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppokit import Recipe
from runs import REPOSITORY

RECIPES = sorted((REPOSITORY / "recipes").glob("**/*.yaml"))


def test_there_are_recipes() -> None:
    assert REPOSITORY / "recipes" / "quickstart.yaml" in RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_validates(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    recipe = Recipe.load(path.relative_to(REPOSITORY))
    assert path.read_text().startswith("#"), "a recipe begins with a comment that says what it does"
    assert recipe.settings.run.out.startswith("runs/")
