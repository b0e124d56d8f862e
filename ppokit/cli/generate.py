"""The command generate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppokit.cli.options import Debug, DisablePlugin
from ppokit.errors import DataError, RunFolderError

if TYPE_CHECKING:
    from ppokit.config.recipe import Recipe


def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to answer; of a chat also its messages, as JSON.")
    ],
    base: Annotated[bool, typer.Option("--base", help="Let the untrained model answer too.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; the run's own by default.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Likeliest tokens instead of drawn ones.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another answer.")] = 0,
    disable_plugin: DisablePlugin = None,
    debug: Debug = False,
) -> None:
    """Let a trained policy answer per prompt."""
    changed = [] if max_new_tokens is None else [f"rollout.max_new_tokens={max_new_tokens}"]
    recipe = recipe_of_run(run, changed, disable_plugin)
    if recipe.settings.prompts.chat:
        from ppokit.plugin.chats import read_chat

        try:
            prompt = read_chat(prompt)
        except ValueError as error:
            raise DataError(f"PROMPT: {error}") from error
    from ppokit.rollout.load_policy import load_policy
    from ppokit.run.run_dir import RunDir

    answers = []
    longest = RunDir(run).longest_text()
    for name, folder in [("base", None)] * base + [("policy", run / "policy")]:
        view = load_policy(recipe, folder, longest)
        (text,) = view.generate([prompt], n=None if greedy else 1, seed=seed).responses
        view.generator.close()
        answers.append((name, text.strip()))
    for name, text in answers:
        typer.echo(f"{name}: {text}" if base else text)


def recipe_of_run(run: Path, changed: list[str], disabled: list[str] | None) -> Recipe:
    """The recipe of a run that has saved a policy, with the run's own copy of its chat template.

    Args:
        changed: keys to set otherwise.
        disabled: plugins that are blocked.

    Raises:
        RunFolderError: it is no such folder.
    """
    from ppokit.config.recipe import Recipe
    from ppokit.config.registry import PluginRegistry

    if not (run / "recipe.yaml").is_file():
        raise RunFolderError(f"{run} is not the folder of a run: it has no recipe.yaml.")
    if not (run / "policy").is_dir():
        raise RunFolderError(f"{run} has no policy yet; it is saved with the run's first checkpoint.")
    recipe = Recipe.load(run / "recipe.yaml", changed, PluginRegistry(disabled or ()), check_data=False)
    prompts = recipe.settings.prompts
    if prompts.chat_template is None:
        return recipe
    copied = prompts.model_copy(update={"chat_template": str(run / "policy" / "chat_template.jinja")})
    return replace(recipe, settings=recipe.settings.model_copy(update={"prompts": copied}))
