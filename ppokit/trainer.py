"""PPO on a recipe, as one sentence: the loop of `PPOTrainer.train`.

Each of its verbs is public; a loop of one's own around them is as good as `train()`.

Schulman et al. 2017, arXiv:1707.06347; for language models Ziegler et al. 2019, arXiv:1909.08593.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ppokit.build import build_trainer
from ppokit.config.recipe import Recipe
from ppokit.distributed import ends_together
from ppokit.evaluation.view import held_out_view
from ppokit.plugin.types import Advantages, PromptBatch, Rewards, Rollout
from ppokit.report.writer import report_writer
from ppokit.rollout.ahead import RolloutAhead
from ppokit.rollout.dynamic_sampling import resample
from ppokit.rollout.fit import answer_greedily, fit_recorded, predict_next, recorded_rollout
from ppokit.run.components import RunComponent, closed_on_error
from ppokit.run.recorder import RunRecorder
from ppokit.run.run_dir import RunDir
from ppokit.run.signals import Signals
from ppokit.training.advantages import estimate
from ppokit.training.checks import FirstUpdate
from ppokit.training.metrics import Clock


class PPOTrainer:
    """Trains a recipe's model. The model is loaded here; the run's folder is made by the first report.

    `train()` ends by closing the recipe's components. Within `with PPOTrainer(recipe) as trainer:` they stay
    open until the end of the block, for what comes after it; an error in the block saves the last step first.

    Args:
        recipe: what to train and how.
        observers: objects with methods marked `@hookimpl` (`ppokit.plugin.hookspecs.Events`), beside the
            recipe's own; called on the main process, and stopping the run where they fail.
        resume: folder of an earlier run to go on with, instead of starting in `run.out`.

    Attributes:
        step: the step that was done last, from 1; 0 before the first. A step is done once it is updated: the
            one that is collected, scored and estimated is `step + 1`.

    Raises:
        PpokitError: something in the recipe cannot be used; nothing has been written.
    """

    def __init__(
        self, recipe: Recipe, *, observers: Sequence[object] = (), resume: Path | str | None = None
    ) -> None:
        if not isinstance(recipe, Recipe):
            raise TypeError(f"got a {type(recipe).__name__}; expected a Recipe, as Recipe.load(path) gives")
        self.recipe, self.settings = recipe, recipe.settings
        # Absolute: a reward of the user's may change the working directory.
        self.run_dir = RunDir(Path(resume if resume is not None else self.settings.run.out).absolute())
        checkpoint = self.run_dir.starting_point(resume=resume is not None)
        parts = self.components = build_trainer(recipe, self.run_dir.folder)
        self.roles, self.processes = parts.roles, parts.processes
        self.collector = parts.collector(self._phase)
        asked_ahead = parts.collector(partial(self._phase, later=1))
        self.ahead = RolloutAhead(parts.prompts, asked_ahead, parts.updater.parity, self.settings)
        ahead = [RunComponent("ahead", "the next step's rollout", self.ahead)] if self.ahead.last else []
        instances = [*parts.instances, *ahead]
        with closed_on_error(instances), self.processes.together():
            instances += report_writer(recipe, self.run_dir.folder, parts)
            self.recorder = RunRecorder(recipe, self.run_dir, parts, instances, observers)
            self.step = self.recorder.begin(checkpoint)
        self.lifetime, self.checkpointer = self.recorder.lifetime, self.recorder.checkpointer
        self._first_update = FirstUpdate(parts.policy_hash(), self.settings.update, done=self.step > 0)
        self.clock, self.signals = Clock(self.roles.device), Signals(self.processes)

    def train(self) -> None:
        """Run every step that is left, then close the components unless a `with` block holds them open.

        On SIGINT or SIGTERM, and on any error, the last step is saved first, unless the weights have
        already moved on from it.

        Raises:
            Interrupted: a signal came.
            PpokitError: a plugin failed, a number was not finite, or the run has ended before its last step.
        """
        self.lifetime.check_going(self.step, self.settings.run.steps, self.run_dir.folder)
        with self.lifetime.until_end(self.signals, self.save, lambda: self.step, lambda: self.run_dir.opened):
            for prompts in self.prompts:
                rollout = self.collect(prompts)
                rewards = self.score(rollout)
                rollout, rewards = self.resample(rollout, rewards)
                advantages = self.estimate(rollout, rewards)
                stats = self.update(rollout, advantages)
                self.evaluate()
                self.report(rollout, rewards, advantages, stats)

    # The verbs

    @property
    def prompts(self) -> Iterator[PromptBatch]:
        """The prompts of the steps that are left, one batch per step; an evaluation comes before step 1."""
        if self.step == 0:
            self.evaluate()
        for prompts in self.components.prompts.steps(self.step + 1, self.settings.run.steps):
            if self.stopped:
                return
            yield prompts

    @property
    def stopped(self) -> bool:
        """Whether `evaluation.patience` has ended the run before its last step."""
        return self.components.evaluation is not None and self.components.evaluation.exhausted

    @ends_together
    def collect(self, prompts: PromptBatch) -> Rollout:
        """Answer the prompts, and compute what the recipe's components need of the answers.

        Rewards that run beside the main thread and need no more than texts are asked meanwhile.
        """
        step = self.step + 1
        if (ahead := self.ahead.take(prompts, step)) is not None:
            return ahead
        begin = partial(self.components.scorer.begin, step=step)
        rollout = self.collector.collect(prompts, step, on_answered=begin)
        self._first_update.check_collected(rollout)
        return rollout

    @ends_together
    def score(self, rollout: Rollout) -> Rewards:
        """Rewards of a rollout, all providers together; with `overlap`, beside the next step's answers."""
        scorer, step = self.components.scorer, self.step + 1
        if self.ahead.is_due(step + 1):
            with self._phase("reward"):
                scorer.begin(rollout, step=step)
                scorer.wait()
            self.ahead.collect(step + 1, updates=self.step)
        with self._phase("reward"), self.recorder.samples_kept(step):
            return scorer.score(rollout, step=step)

    @ends_together
    def resample(self, rollout: Rollout, rewards: Rewards) -> tuple[Rollout, Rewards]:
        """Drop groups of equal rewards and ask other prompts, where the recipe asks for dynamic sampling.

        What was dropped stays in the rollout, and is not `trained` in the rewards.
        """
        prompts, rounds = self.components.prompts, self.settings.rollout.dynamic_sampling
        others = partial(prompts.resample, self.step + 1)
        return resample((rollout, rewards), rounds, others, self.collect, self.score)

    @ends_together
    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        """Advantages of the responses that are trained on, whitened if the recipe says so; 0 elsewhere."""
        return estimate(self.components.estimator, rollout, rewards)

    @ends_together
    def update(
        self,
        rollout: Rollout,
        advantages: Advantages,
        *,
        epochs: int | None = None,
        minibatches: int | None = None,
    ) -> dict[str, float]:
        """Train on a rollout; the step is done after it. Signals wait until it is reported.

        Args:
            epochs, minibatches: the recipe's, unless given.
        """
        step = self.step + 1
        with self._phase("update"), self.roles.lock:
            # A signal must not come between the weights' step and its count, nor before it is reported.
            self.signals.defer()
            with self.recorder.samples_kept(step, rollout, advantages):
                stats = self.ahead.metrics(step) | self.components.updater.update(
                    rollout, advantages, step, epochs=epochs, minibatches=minibatches
                )
            self._first_update.check_updated(rollout, advantages, stats, self.components.policy_hash)
            self.step = step
            self.checkpointer.snapshot(step)
            self.roles.clear_cache()
        return stats

    @ends_together
    def evaluate(self) -> dict[str, float]:
        """What the recipe's evaluators measure of the policy, when it is due; the report holds it too.

        The untrained policy's, before the first prompts, has a line of its own, of step 0.
        """
        evaluation = self.components.evaluation
        if evaluation is None or not evaluation.is_due(self.step):
            return {}
        view = held_out_view(self.components, self.collector, self.step)
        with self._phase("evaluation", later=-1), self.recorder.answers_kept(self.step, view):
            result = evaluation.measure(self.step, view, partial(self._announce, "evaluation", later=-1))
            (evaluation.waited, *_) = self.processes.gather([evaluation.waited])
        self.roles.clear_cache()
        self.recorder.evaluation(self.step, result, self.clock)
        return result.metrics

    @ends_together
    def report(
        self, rollout: Rollout, rewards: Rewards, advantages: Advantages, stats: dict[str, float]
    ) -> dict[str, float]:
        """Tell the components of the step, write its numbers and samples, save a checkpoint when it is due.

        Returns: the step's metrics.
        """
        with self.signals.deferred():
            metrics = self.recorder.step(self.step, rollout, rewards, advantages, stats, self.clock)
            if self.stopped or self.recorder.saves_after(self.step):
                self.save()
        self.signals.resume()
        return metrics

    def save(self) -> None:
        """Save a checkpoint, the policy and the plot, if the last step's are not yet saved.

        Weights that a forced stop left half-way are no step's: then the checkpoint before it stands.
        """
        self.recorder.save(self.step)

    def end(self) -> None:
        """End a loop of one's own: tell the components and close them; a second call does nothing."""
        self.lifetime.end(self.step)

    def __enter__(self) -> PPOTrainer:
        self.lifetime.keep_open = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.lifetime.keep_open = False
        self.lifetime.end(self.step, error, self.save if self.run_dir.opened else None)

    # With people's ratings, and without a loop: see ppokit.rollout.fit

    fit = fit_recorded
    recorded = recorded_rollout
    predict = predict_next
    answer = answer_greedily

    @contextmanager
    def _phase(self, name: str, later: int = 0) -> Iterator[None]:
        """Time a phase and announce it, of the step that is being done or one `later`; signals may end it."""
        self.signals.check()
        self.recorder.start(self.step)
        self._announce(name, later)
        with self.clock.phase(name):
            yield

    def _announce(self, name: str, later: int = 0) -> None:
        self.lifetime.events.emit("on_phase", step=self.step + 1 + later, phase=name)
