"""What a step and an evaluation leave behind: numbers, samples, warnings, events, snapshots, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.config.recipe import Recipe
from ppokit.errors import PpokitError
from ppokit.plugin.types import Advantages, Rewards, Rollout
from ppokit.run.checkpointer import Checkpointer
from ppokit.run.components import RunComponent
from ppokit.run.lifetime import Lifetime, while_handling
from ppokit.run.provenance import provenance
from ppokit.run.reward_watch import RewardWatch
from ppokit.run.run_dir import RunDir

if TYPE_CHECKING:
    from ppokit.evaluation.evaluation import Result
    from ppokit.training.backend import Backend
    from ppokit.training.token_record import TokenRecord


class RunRecorder:
    """Records a run. Every process calls the same methods; files and warnings are the main one's.

    Args:
        run_dir: the run's folder.
        instances: what the recipe's components have built on this process.
        observers: objects that the user gave to the trainer.
        backend: the trained weights.
        save_policy: writes the policy into a folder.
        keep: checkpoints that are kept.
        main: whether this is the main process.
    """

    def __init__(
        self,
        run_dir: RunDir,
        instances: Sequence[RunComponent],
        observers: Sequence[object],
        backend: Backend,
        save_policy: Callable[[Path], None],
        *,
        keep: int,
        main: bool,
    ) -> None:
        self.run_dir, self.save_policy, self.is_main = run_dir, save_policy, main
        self.lifetime = Lifetime(instances, observers)
        self._watch = RewardWatch()
        self.checkpointer = Checkpointer(
            run_dir, backend, self.lifetime.components, save_policy=save_policy, keep=keep
        )

    def begin(
        self, checkpoint: Path | None, recipe: Recipe, hashes: Mapping[str, str], *, longest_text: int
    ) -> int:
        """Begin a new run, or go on from a checkpoint; the folder is written by the first report.

        Args:
            hashes: SHA-256 of the recipe, the prompts and the policy.
            longest_text: tokens of the longest prompt and its response.

        Returns: the step that was done last.
        """
        if checkpoint is None:
            plugins = {selected.key: selected.plugin for selected in recipe.selected}
            self.run_dir.begin(recipe.to_yaml(), provenance(plugins, hashes, longest_text=longest_text))
            return 0
        self.run_dir.check_prompts(hashes["prompts"], recipe.settings.prompts.path)
        step = self.checkpointer.load(checkpoint)
        self.run_dir.resume(step, recipe.to_yaml())
        return step

    def step(
        self,
        step: int,
        rollout: Rollout,
        rewards: Rewards,
        advantages: Advantages,
        metrics: dict[str, float],
        *,
        record: TokenRecord | None = None,
    ) -> None:
        """Write a step's numbers and samples, emit `on_step`, and take a snapshot after it.

        Args:
            record: numbers of single tokens of the step's update.
        """
        if self.is_main:
            self.run_dir.open()
            self._warn(step, self._watch.warnings(rewards))
            self.run_dir.add_metrics(step, metrics)
            self.run_dir.add_rollout(step, rollout, rewards, advantages, record)
        event: dict[str, Any] = {"rollout": rollout, "rewards": rewards, "advantages": advantages}
        try:
            self.lifetime.events.emit("on_step", step=step, metrics=metrics, **event)
        finally:
            self.checkpointer.snapshot(step)  # with what they learned from the step

    def evaluation(self, step: int, result: Result) -> None:
        """Emit `on_evaluation`, and keep the policy where it is the best so far.

        The untrained policy's metrics have a line of their own, of step 0; others stand with their step's.
        """
        if self.is_main:
            if result.best is not None:
                self.run_dir.keep_best(self.save_policy, step, result.best)
            if step == 0:
                self.run_dir.open()
                self.run_dir.add_metrics(0, result.metrics)
            self.run_dir.add_evaluation(step, result.records)
            self._warn(step, result.warnings)
        records = result.records
        self.lifetime.events.emit("on_evaluation", step=step, metrics=result.metrics, records=records)
        self.checkpointer.snapshot(step)

    def failed_step(
        self,
        step: int,
        error: PpokitError,
        rollout: Rollout,
        *,
        rewards: Rewards | None = None,
        advantages: Advantages | None = None,
    ) -> None:
        """Keep the samples of a step that could not be trained on, for the user to look at."""
        if self.is_main:
            with while_handling(error, "the samples of the failed step are not kept"):
                self.run_dir.open()
                self.run_dir.add_rollout(step, rollout, rewards, advantages)

    def save(self, step: int) -> None:
        """Save a checkpoint, the policy and the plot, if the last step's are not yet saved."""
        if self.is_main and (folder := self.checkpointer.save()) is not None:
            self.lifetime.events.emit("on_checkpoint", step=step, folder=folder)

    def _warn(self, step: int, texts: Sequence[str]) -> None:
        for text in texts:
            self.lifetime.events.emit("on_warning", step=step, text=text)
