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
from ppokit.run.run_dir import Ledger, provenance

if TYPE_CHECKING:
    from ppokit.build import Parts


class RunKeeper:
    """Writes a run's folder and takes one up again.

    Args:
        recipe: of the run.
        parts: what of it has state.
        ledger: the folder.

    Attributes:
        opened: whether the folder is this run's by now.
        first_hash: of the policy that the run began, or goes on, with.
    """

    def __init__(self, recipe: Recipe, parts: Parts, ledger: Ledger) -> None:
        self.recipe, self.parts, self.ledger = recipe, parts, ledger
        self.opened = False
        self._resumed_at: int | None = None
        self._begin(self._state(0))

    def load(self, checkpoint: Path) -> int:
        """Take up a checkpoint; returns the steps that it has done.

        Raises:
            RunFolderError: it cannot be taken up, or lacks the state of a component.
        """
        state = load_checkpoint(checkpoint, self.parts.masters)
        began = self.ledger.hashes().get("prompts")
        if began is not None and began != self.parts.hashes["prompts"]:
            warnings.warn(
                f"prompts.path: {self.recipe.settings.prompts.path} no longer holds the prompts that the run "
                f"in {self.ledger.folder} began with; it goes on with those that are there now",
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
        self._saved_steps = self.parts.masters.steps

    def open(self) -> None:
        """Make the run's folder, or clear what a resumed run writes again; the first time only."""
        if self.opened:
            return
        if self._resumed_at is not None:
            self.ledger.reopen(self._resumed_at, self.recipe.to_yaml())
        else:
            self.ledger.open_new(
                self.recipe.to_yaml(),
                provenance(
                    {choice.key: choice.plugin for choice in self.recipe.choices},
                    {"hashes": {**self.parts.hashes, "policy_at_start": self.first_hash}},
                ),
            )
        self.opened = True

    def save(self) -> None:
        """Write a checkpoint of the last step noted, the policy and the plot, unless they are there.

        Weights that have moved since are no step's: then nothing is written.

        Raises:
            RunFolderError: it cannot be written.
        """
        if self.parts.masters.steps != self._saved_steps or not self.parts.processes.is_main:
            return
        checkpoints = self.ledger.folder / "checkpoints"
        saved = (checkpoints / f"step-{self._saved.step:06d}").exists()
        if saved and (self.ledger.folder / "policy").exists() and self.ledger.plot_file.exists():
            return
        self.open()
        keep = self.recipe.settings.run.keep_checkpoints
        with self.ledger.writing():
            if not saved:
                save_checkpoint(checkpoints, self.parts.masters, self._saved, keep)
            with self.ledger.replacing("policy") as folder:
                self.parts.roles.save_policy(folder)
                self.parts.tokenizer.save_pretrained(folder / "policy")
            self.ledger.plot()

    def keep_failed(self, step: int, rollout: Rollout, advantages: Advantages) -> None:
        """Leave the samples of a step that could not be trained on for the user to look at."""
        if self.parts.processes.is_main:
            self.open()
            self.ledger.add_rollout(step, rollout, None, advantages)

    def _begin(self, state: TrainState) -> None:
        self._saved = state
        self._saved_steps = self.parts.masters.steps
        self.first_hash = self.parts.masters.hash(self.parts.roles.is_policy)

    def _stateful(self) -> Iterator[tuple[str, Stateful]]:
        """What checkpoints hold beside the weights, by name."""
        yield "scorer", self.parts.scorer
        for provider in self.parts.scorer.providers:
            if isinstance(provider.provider, Stateful):
                yield f"rewards/{provider.name}", provider.provider
        if isinstance(self.parts.estimator, Stateful):
            yield "advantages", self.parts.estimator

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
