"""The command train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppokit.cli.options import Debug, DisablePlugin, Overrides
from ppokit.errors import Interrupted, RunFolderError

if TYPE_CHECKING:
    from ppokit.config.recipe import Recipe

COMPARED_PROMPTS = 3


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A YAML recipe; none with --resume.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with the run in this folder.")
    ] = None,
    disable_plugin: DisablePlugin = None,
    debug: Debug = False,
) -> None:
    """Train by a recipe, or go on with a run.

    Ctrl-C saves a checkpoint first; --resume goes on from it.
    """
    from ppokit.config.recipe import Recipe
    from ppokit.config.registry import PluginRegistry

    changed = list(overrides or ())
    if resume is not None:
        if recipe is not None:  # with --resume, the first positional is an override already
            changed.insert(0, str(recipe))
        for text in changed:
            if "=" not in text or Path(text).is_file():
                raise RunFolderError(
                    f"--resume {resume}: got {text}; a run goes on by its own recipe; expected changes "
                    "of it, as in run.steps=50."
                )
        recipe = resume / "recipe.yaml"
        if not recipe.is_file():
            raise RunFolderError(f"--resume: {resume} is not the folder of a run: it has no recipe.yaml.")
    elif recipe is None:
        raise typer.BadParameter("name a RECIPE, or a run's folder with --resume")
    registry = PluginRegistry(disable_plugin or ())
    loaded = Recipe.load(recipe, changed, registry)
    if resume is not None and changed:
        before = Recipe.load(recipe, (), registry, check_data=False).settings.run.out
        if loaded.settings.run.out != before:
            raise RunFolderError(
                f"--resume {resume}: got run.out {loaded.settings.run.out}; a run goes on in its folder; "
                "leave it out, or copy the folder and resume the copy."
            )
    from ppokit.run.run_dir import RunDir

    if resume is None:
        RunDir.check_new(Path(loaded.settings.run.out))  # before seconds go into imports
    from ppokit.distributed import destroy_process_group

    try:
        _train(loaded, resume)
    except Interrupted as stop:
        _advise(stop, resume or Path(loaded.settings.run.out), loaded.settings.run.steps)
        raise
    finally:
        destroy_process_group()


def _advise(stop: Interrupted, folder: Path, steps: int) -> None:
    """Add how to go on, where there is a checkpoint and something is left to do."""
    from ppokit.run.checkpoint_files import list_checkpoints

    checkpoints = list_checkpoints(folder / "checkpoints")
    if checkpoints and checkpoints[-1].name != f"step-{steps:06d}":
        stop.add_note(f"To go on: ppokit train --resume {shlex.quote(str(folder))}")


def _train(recipe: Recipe, resume: Path | None) -> None:
    from ppokit.cli.allocator import HeapTrimmer, keep_freed_memory
    from ppokit.cli.train_view import Display
    from ppokit.trainer import PPOTrainer

    keep_freed_memory()
    display = Display(recipe.settings.run.steps, recipe.settings.run.sample_every)
    with PPOTrainer(recipe, observers=[display, HeapTrimmer()], resume=resume) as trainer:
        if not trainer.processes.is_main:
            trainer.train()
            return
        # Where samples are not wanted, none are generated either.
        count = COMPARED_PROMPTS if recipe.settings.run.sample_every else 0
        prompts = trainer.components.prompts.first(count)
        before = trainer.answer(prompts) if prompts else []
        display.begin(trainer)
        trainer.train()
        if prompts:
            display.compare(prompts, before, trainer.answer(prompts))
        display.summarize(trainer)
