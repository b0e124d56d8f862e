"""What a run can go on from: snapshots of its components' state, and checkpoints on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppokit.errors import PpokitError, RunFolderError, plugin_call
from ppokit.run.checkpoint_files import TrainState, damaged, load_checkpoint, save_checkpoint
from ppokit.run.component_state import encode
from ppokit.run.components import RunComponent
from ppokit.run.run_dir import RunDir

if TYPE_CHECKING:
    from torch import Tensor

    from ppokit.training.backend import Backend


class Checkpointer:
    """Takes snapshots after each step, writes the last one, and takes a written one up again.

    The weights are not copied: they are those of the last snapshot until the next optimizer step.

    Args:
        run_dir: the run's folder.
        weights: what trains.
        components: those of this process; checkpoints hold the state of those that have any.
        save_policy: writes the policy, as plain peft or transformers loads it, into a folder.
        keep: checkpoints that are kept.

    Raises:
        PluginError: a component's state cannot be stored; nothing has been trained yet.
    """

    def __init__(
        self,
        run_dir: RunDir,
        weights: Backend,
        components: Sequence[RunComponent],
        *,
        save_policy: Callable[[Path], None],
        keep: int,
    ) -> None:
        self.run_dir, self.weights, self.save_policy, self.keep = run_dir, weights, save_policy, keep
        self.components = [component for component in components if component.has_state]
        self._saved = TrainState(0)
        self.snapshot(0)

    def load(self, checkpoint: Path) -> int:
        """Take up a checkpoint; returns the step that was done last.

        Raises:
            RunFolderError: it cannot be taken up, or lacks the state of a component.
            PluginError: a component does not take its state back.
        """
        weights, step, states = load_checkpoint(checkpoint)
        try:
            self.weights.load_state(weights)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(checkpoint, error) from error
        for component in self.components:
            if component.key in states:
                with plugin_call(component.where, "load_state_dict"):
                    component.instance.load_state_dict(states[component.key])
            elif not component.is_observer:
                raise RunFolderError(
                    f"--resume: checkpoint {checkpoint} holds no state of {component.key}, which the recipe "
                    "now has. Take back what was changed in the recipe, or start a new run."
                )
        self.snapshot(step)
        return step

    def snapshot(self, step: int) -> None:
        """Remember what a checkpoint of now would hold.

        Raises:
            PluginError: a component's state cannot be stored; a checkpoint then holds its previous state with
                the current weights.
        """
        state, failure = TrainState(step), None
        for component in self.components:
            tensors: dict[str, Tensor] = {}
            try:
                with plugin_call(component.where, "state_dict"):
                    state.components[component.key] = encode(
                        component.instance.state_dict(), component.key, tensors
                    )
            except PpokitError as error:
                failure = failure or error
                old = self._saved
                tensors = {n: t for n, t in old.tensors.items() if n.startswith(f"{component.key}/")}
                if component.key in old.components:
                    state.components[component.key] = old.components[component.key]
            state.tensors.update(tensors)
        self._saved, self._saved_steps = state, self.weights.steps
        if failure is not None:
            raise failure

    def save(self) -> Path | None:
        """Write the last snapshot as a checkpoint, the policy and the plot, unless they are there.

        Weights that have moved since are no step's: then nothing is written.

        Returns: the checkpoint's folder where one was written.

        Raises:
            RunFolderError: it cannot be written.
        """
        if self.weights.steps != self._saved_steps:
            return None
        checkpoints = self.run_dir.folder / "checkpoints"
        saved = (checkpoints / f"step-{self._saved.step:06d}").exists()
        if saved and self.run_dir.policy_folder.exists() and self.run_dir.plot_file.exists():
            return None
        self.run_dir.open()
        written = None
        with self.run_dir.writing():
            if not saved:
                written = save_checkpoint(checkpoints, self.weights.state(), self._saved, self.keep)
            self.run_dir.replace_policy(self.save_policy)
            self.run_dir.plot()
        return written
