"""Commands that load no model: validate, schema."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ppokit.cli.options import Debug, DisablePlugin, Overrides, RecipePath
from ppokit.errors import PpokitWarning

if TYPE_CHECKING:
    from ppokit.config.components import SelectedComponent
    from ppokit.config.recipe import Recipe


def validate(
    recipe: RecipePath,
    overrides: Overrides = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the recipe with all defaults filled in.")
    ] = False,
    disable_plugin: DisablePlugin = None,
    debug: Debug = False,
) -> None:
    """Check a recipe without loading a model.

    Reports every problem at once, with its line: keys, plugins' options, files and columns. Warns where an
    answer of nothing scores best in a reward's own examples, and where held-out prompts are trained on.
    """
    from ppokit.config.recipe import Recipe
    from ppokit.config.registry import PluginRegistry
    from ppokit.evaluation.overlap import warn_of_overlap_in_files
    from ppokit.testing.nothing import nothing_wins

    loaded = Recipe.load(recipe, overrides or (), PluginRegistry(disable_plugin or ()))
    for sentence in nothing_wins(loaded):
        warnings.warn(sentence, PpokitWarning, stacklevel=2)
    warn_of_overlap_in_files(loaded.settings)
    typer.echo(loaded.to_yaml().rstrip() if resolved else _summary(loaded))


def schema(disable_plugin: DisablePlugin = None, debug: Debug = False) -> None:
    """Print the recipes' JSON Schema, for editors.

    It holds the options of every installed plugin, and so imports all of them.
    """
    from ppokit.config.json_schema import recipe_schema
    from ppokit.config.registry import PluginRegistry

    typer.echo(json.dumps(recipe_schema(PluginRegistry(disable_plugin or ())), indent=2))


def _summary(recipe: Recipe) -> str:
    settings = recipe.settings
    rollout = settings.rollout
    lora = f", LoRA rank {settings.lora.r}" if settings.lora is not None else ", all weights"
    value = f", value function {settings.value}" if settings.value is not None else ""
    shape = f"{rollout.prompts_per_step} prompts x {rollout.responses_per_prompt} responses"
    lines = {
        "model": f"{settings.model.name}{lora}{value}",
        "rewards": _weighted(recipe.rewards),
        "advantages": recipe.advantages.name,
        "losses": _weighted(recipe.losses),
        "run": f"{settings.run.steps} steps of {shape}, into {settings.run.out}",
    }
    head = f"{recipe.document.source}: OK"
    return "\n".join([head, *(f"  {key:<11}{text}" for key, text in lines.items())])


def _weighted(components: Sequence[SelectedComponent]) -> str:
    return ", ".join(f"{selected.name} x {selected.settings.weight:g}" for selected in components)
