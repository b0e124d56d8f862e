"""What a run keeps: its folder, its checkpoints, and the state that they hold beside the weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from ppokit.config.recipe import Recipe
from ppokit.errors import PpokitWarning, RunFolderError
from ppokit.plugin.protocols import Stateful
from ppokit.plugin.types import Advantages, Rollout
from ppokit.run.checkpoint import TrainState, load_checkpoint, save_checkpoint
from ppokit.run.run_dir import RunDir, provenance

if TYPE_CHECKING:
    from ppokit.build import TrainerComponents


class Checkpointer:
    """Writes a run's folder and takes one up again.

    Args:
        recipe: of the run.
        components: what of it has state.
        run_dir: the folder.

    Attributes:
        opened: whether the folder is this run's by now.
        first_hash: of the policy that the run began, or goes on, with.
    """

    def __init__(self, recipe: Recipe, components: TrainerComponents, run_dir: RunDir) -> None:
        self.recipe, self.components, self.run_dir = recipe, components, run_dir
        self.opened = False
        self._resumed_at: int | None = None
        self._begin(self._state(0))

    def load(self, checkpoint: Path) -> int:
        """Take up a checkpoint; returns the steps that it has done.

        Raises:
            RunFolderError: it cannot be taken up, or lacks the state of a component.
        """
        state = load_checkpoint(checkpoint, self.components.master_weights)
        began = self.run_dir.hashes().get("prompts")
        if began is not None and began != self.components.hashes["prompts"]:
            warnings.warn(
                f"prompts.path: {self.recipe.settings.prompts.path} no longer holds the prompts that the run "
                f"in {self.run_dir.folder} began with; it goes on with those that are there now",
                PpokitWarning,
                stacklevel=3,
            )
        for name, part in self._stateful():
            if name not in state.components:
                raise RunFolderError(
                    f"--resume: checkpoint {checkpoint} holds no state of {name}, which the recipe now has. "
                    "Take back what was changed in the recipe, or start a new run."
                )
            part.load_state_dict(state.components[name])
        self._resumed_at = state.step
        self._begin(state)
        return state.step

    def note(self, step: int) -> None:
        """Remember what a checkpoint of now would hold, after so many steps."""
        self._saved = self._state(step)
        self._saved_steps = self.components.master_weights.steps

    def open(self) -> None:
        """Make the run's folder, or clear what a resumed run writes again; the first time only."""
        if self.opened:
            return
        if self._resumed_at is not None:
            self.run_dir.reopen(self._resumed_at, self.recipe.to_yaml())
        else:
            self.run_dir.open_new(
                self.recipe.to_yaml(),
                provenance(
                    {choice.key: choice.plugin for choice in self.recipe.selected},
                    {"hashes": {**self.components.hashes, "policy_at_start": self.first_hash}},
                ),
            )
        self.opened = True

    def save(self) -> None:
        """Write a checkpoint of the last step noted, the policy and the plot, unless they are there.

        Weights that have moved since are no step's: then nothing is written.

        Raises:
            RunFolderError: it cannot be written.
        """
        if self.components.master_weights.steps != self._saved_steps or not self.components.processes.is_main:
            return
        checkpoints = self.run_dir.folder / "checkpoints"
        saved = (checkpoints / f"step-{self._saved.step:06d}").exists()
        if saved and (self.run_dir.folder / "policy").exists() and self.run_dir.plot_file.exists():
            return
        self.open()
        keep = self.recipe.settings.run.keep_checkpoints
        with self.run_dir.writing():
            if not saved:
                save_checkpoint(checkpoints, self.components.master_weights, self._saved, keep)
            with self.run_dir.replacing("policy") as folder:
                self.components.roles.save_policy(folder)
                self.components.tokenizer.save_pretrained(folder / "policy")
            self.run_dir.plot()

    def keep_failed(self, step: int, rollout: Rollout, advantages: Advantages) -> None:
        """Leave the samples of a step that could not be trained on for the user to look at."""
        if self.components.processes.is_main:
            self.open()
            self.run_dir.add_rollout(step, rollout, None, advantages)

    def _begin(self, state: TrainState) -> None:
        self._saved = state
        self._saved_steps = self.components.master_weights.steps
        self.first_hash = self.components.master_weights.hash(self.components.roles.is_policy)

    def _stateful(self) -> Iterator[tuple[str, Stateful]]:
        """What checkpoints hold beside the weights, by name."""
        yield "scorer", self.components.scorer
        for provider in self.components.scorer.providers:
            if isinstance(provider.provider, Stateful):
                yield f"rewards/{provider.name}", provider.provider
        if isinstance(self.components.estimator, Stateful):
            yield "advantages", self.components.estimator

    def _state(self, step: int) -> TrainState:
        """In copies: components go on changing theirs."""
        return TrainState(step, {name: deepcopy(dict(p.state_dict())) for name, p in self._stateful()})


@contextmanager
def beside(error: BaseException, what: str) -> Iterator[None]:
    """Where what is done about an error fails too, the error is still the one to be told."""
    try:
        yield
    except RunFolderError as second:
        if not isinstance(error, RunFolderError):
            warnings.warn(f"{what}: {second}", PpokitWarning, stacklevel=4)
