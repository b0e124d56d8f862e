"""The command `ppokit reward gain`: what a run brought on held-out prompts, by a gold reward too."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ppokit.cli.generate import recipe_of_run
from ppokit.cli.options import Debug, DisablePlugin, Json, Seed
from ppokit.cli.sections import show
from ppokit.errors import DataError


def gain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    reward: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="The reward model that the run was trained with, made by ppokit reward fit.",
        ),
    ],
    gold: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="A gold reward model: one that was fitted to other raters (--half b)."
        ),
    ],
    prompts: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Held-out prompts, as a recipe's prompts.path; those that the run was trained on are left "
            "out.",
        ),
    ],
    prompt_column: Annotated[str, typer.Option(metavar="NAME", help="Column that holds them.")] = "prompt",
    limit: Annotated[int, typer.Option(min=2, help="Prompts that are asked at most, from the first.")] = 100,
    responses: Annotated[int, typer.Option(min=1, help="To each prompt, by either policy.")] = 4,
    seed: Seed = 0,
    as_json: Json = False,
    disable_plugin: DisablePlugin = None,
    debug: Debug = False,
) -> None:
    """Tell what a run has gained on prompts that it has not seen, and whether a gold reward model agrees.

    What only the reward sees that the run was trained with is that model's error, not quality.
    """
    if reward.resolve() == gold.resolve():
        raise DataError(f"--gold {gold} is the reward itself; expected another reward model.")
    from ppokit.cli.gain_view import gain_sections
    from ppokit.cli.reward_view import Bar
    from ppokit.reward_models.artifact import need_settings
    from ppokit.reward_models.gain import held_out_prompts, measure_gain

    for folder in (reward, gold):
        need_settings(folder)  # before minutes go into answers
    recipe = recipe_of_run(run, [], disable_plugin)
    asked, notes = held_out_prompts(recipe, prompts, prompt_column, limit)
    with Bar("answering") as bar:
        bar.on_start(2 * len(asked))
        result = measure_gain(
            run, recipe, asked, (reward, gold), responses=responses, seed=seed, advance=bar.on_advance
        )
    result.notes.extend(notes)
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
    else:
        show(gain_sections(result))
