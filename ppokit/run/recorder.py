"""What a step and an evaluation leave behind: numbers, samples, warnings, events, snapshots, checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.config.recipe import Recipe
from ppokit.errors import NonFiniteError, PpokitError, PpokitWarning
from ppokit.plugin.types import Advantages, Rewards, Rollout
from ppokit.rewards.outcomes import FailedRewardsError
from ppokit.run.checkpointer import Checkpointer
from ppokit.run.components import RunComponent
from ppokit.run.lifetime import Lifetime, while_handling
from ppokit.run.machine import machine
from ppokit.run.provenance import provenance
from ppokit.run.reward_watch import RewardWatch
from ppokit.run.run_dir import RunDir
from ppokit.training.metrics import run_metrics, step_metrics

if TYPE_CHECKING:
    from ppokit.build import TrainerComponents
    from ppokit.evaluation.evaluation import Result
    from ppokit.evaluation.view import HeldOutView
    from ppokit.training.metrics import Clock


class RunRecorder:
    """Records a run. Every process calls the same methods; files and warnings are the main one's.

    Args:
        run_dir: the run's folder.
        parts: of the trainer.
        instances: what the recipe's components have built on this process.
        observers: objects that the user gave to the trainer; called on the main process.
    """

    def __init__(
        self,
        recipe: Recipe,
        run_dir: RunDir,
        parts: TrainerComponents,
        instances: Sequence[RunComponent],
        observers: Sequence[object],
    ) -> None:
        self.recipe, self.run_dir, self.parts = recipe, run_dir, parts
        self.is_main = parts.processes.is_main
        self.lifetime = Lifetime(instances, observers if self.is_main else (), self._write_end)
        self._watch = RewardWatch()
        self._evaluated: Mapping[str, float] = {}
        self.checkpointer = Checkpointer(
            run_dir,
            parts.backend,
            self.lifetime.components,
            save_policy=parts.save_policy,
            keep=recipe.settings.run.keep_checkpoints,
        )

    def begin(self, checkpoint: Path | None) -> int:
        """Begin a new run, or go on from a checkpoint; the folder is written by the first report.

        Returns: the step that was done last.
        """
        if checkpoint is None:
            plugins = {selected.key: selected.plugin for selected in self.recipe.selected}
            hashes = {**self.parts.hashes, "policy_at_start": self.parts.policy_hash()}
            imports = {name: file for one in self.recipe.selected for name, file in one.imports.items()}
            about = provenance(
                plugins,
                imports,
                hashes,
                machine=machine(self.parts.roles.device, self.parts.roles.dtype),
                longest_text=self.parts.longest_text,
            )
            self.run_dir.begin(self.recipe.to_yaml(), about)
            return 0
        self._check_data()
        step = self.checkpointer.load(checkpoint)
        self.run_dir.resume(step, self.recipe.to_yaml())
        return step

    def _check_data(self) -> None:
        """Warn where what a resumed run reads is not what it began with."""
        folder, path = self.run_dir.folder, self.recipe.settings.prompts.path
        messages = {
            "prompts": f"prompts.path: {path} no longer holds the prompts that the run in {folder} began "
            "with; it goes on with those that are there now",
            "held_out": "evaluation.prompts: the held-out prompts or their columns are not those that the "
            f"run in {folder} began with, and its gains would compare one with the other; put them back, or "
            "begin a new run",
            "texts": f"evaluation.texts: the texts are not those that the run in {folder} began with, and "
            "its perplexities would compare one with the other; put them back, or begin a new run",
        }
        for name, digest in self.parts.hashes.items():
            if name in messages and not self.run_dir.began_with(name, digest):
                warnings.warn(messages[name], PpokitWarning, stacklevel=3)

    def start(self, step: int) -> None:
        """Emit `on_run_start`; a second call does nothing.

        Args:
            step: that was done last.
        """
        if not self.lifetime.started:
            if self.is_main:
                self.run_dir.start()
            steps, recipe = self.recipe.settings.run.steps, self.recipe.resolved()
            self.lifetime.start(step, steps, self.run_dir.folder, recipe)

    def step(
        self,
        step: int,
        rollout: Rollout,
        rewards: Rewards,
        advantages: Advantages,
        stats: Mapping[str, float],
        clock: Clock,
    ) -> dict[str, float]:
        """Write a step's numbers and samples, emit `on_step`, and take a snapshot after it.

        Args:
            stats: metrics of its update.
            clock: seconds of its phases.

        Returns: the step's metrics, with those of an evaluation after it.
        """
        metrics = step_metrics(rollout, rewards, advantages, step)
        metrics.update(stats, **self._evaluated, **run_metrics(clock, rollout, self.parts.processes))
        self._evaluated, record = {}, self.parts.updater.record
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
        return metrics

    def evaluation(self, step: int, result: Result, clock: Clock) -> None:
        """Emit `on_evaluation`, and keep the policy where it is the best so far.

        The untrained policy's metrics have a line of their own, of step 0; others stand with their step's.
        """
        if step == 0:
            result.metrics["time/evaluation_s"] = clock.take()["evaluation"]
        else:
            self._evaluated = result.metrics
        if self.is_main:
            if result.best is not None:
                self.run_dir.keep_best(self.parts.save_policy, step, result.best)
            if step == 0:
                self.run_dir.open()
                self.run_dir.add_metrics(0, result.metrics)
            self.run_dir.add_evaluation(step, result.records)
            self._warn(step, result.warnings)
        records = result.records
        self.lifetime.events.emit("on_evaluation", step=step, metrics=result.metrics, records=records)
        self.checkpointer.snapshot(step)

    @contextmanager
    def samples_kept(
        self, step: int, rollout: Rollout | None = None, advantages: Advantages | None = None
    ) -> Iterator[None]:
        """Keep the samples of a step that cannot be scored or trained on, for the user to look at."""
        try:
            yield
        except FailedRewardsError as error:
            if self.run_dir.opened:  # an error of the first step leaves no folder
                self._keep(step, error, error.rollout, error.rewards)
            raise
        except NonFiniteError as error:
            if rollout is not None:
                self._keep(step, error, rollout, advantages=advantages)
            raise

    @contextmanager
    def answers_kept(self, step: int, view: HeldOutView) -> Iterator[None]:
        """Keep the answers of an evaluation in which rewards failed too often, for the user to look at."""
        try:
            yield
        except FailedRewardsError as error:
            if self.is_main and self.run_dir.opened:
                with while_handling(error, "the answers of the failed evaluation are not kept"):
                    self.run_dir.add_evaluation(step, view.kept())
            raise

    def _keep(
        self,
        step: int,
        error: PpokitError,
        rollout: Rollout,
        rewards: Rewards | None = None,
        advantages: Advantages | None = None,
    ) -> None:
        if self.is_main:
            with while_handling(error, "the samples of the failed step are not kept"):
                self.run_dir.open()
                self.run_dir.add_rollout(step, rollout, rewards, advantages)

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        run = self.recipe.settings.run
        return step == run.steps or step % run.checkpoint_every == 0

    def save(self, step: int) -> None:
        """Save a checkpoint, the policy and the plot, if the last step's are not yet saved."""
        if self.is_main and (folder := self.checkpointer.save()) is not None:
            self.lifetime.events.emit("on_checkpoint", step=step, folder=folder)

    def _write_end(self, step: int, stopped_by: str | None, error: str | None) -> None:
        if self.is_main:
            self.run_dir.end(step, stopped_by, error)

    def _warn(self, step: int, texts: Sequence[str]) -> None:
        for text in texts:
            self.run_dir.add_warning(step, text)
            self.lifetime.events.emit("on_warning", step=step, text=text)
