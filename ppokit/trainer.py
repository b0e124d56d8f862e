"""PPO on a recipe, as one sentence:

for prompts in self.prompts:
    rollout = self.collect(prompts)
    rollout, rewards = self.resample(rollout, self.score(rollout))
    advantages = self.estimate(rollout, rewards)
    stats = self.update(rollout, advantages)
    self.report(rollout, rewards, advantages, stats)

Each verb is public; a loop of one's own around them is as good as `train()`.

Schulman et al. 2017, arXiv:1707.06347; for language models Ziegler et al. 2019, arXiv:1909.08593.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ppokit.build import TrainerComponents, build_trainer
from ppokit.config.recipe import Recipe
from ppokit.data.tables import clear_parsed
from ppokit.errors import Interrupted, NonFiniteError, RunFolderError
from ppokit.evaluation.canary import Canary, read_held_out
from ppokit.plugin.protocols import Observant, Observer, PhaseObserver, Warned
from ppokit.plugin.types import Advantages, PromptBatch, Rewards, Rollout
from ppokit.rewards.given import given_rewards
from ppokit.rollout.collect import Collector
from ppokit.rollout.dynamic_sampling import concat, count_groups, filter_groups
from ppokit.rollout.policy import Prediction
from ppokit.rollout.recorded import check_estimator, check_given
from ppokit.run.checkpoint import list_checkpoints
from ppokit.run.checkpointer import Checkpointer, beside
from ppokit.run.run_dir import RunDir
from ppokit.run.signals import Signals
from ppokit.run.warnings import step_warnings
from ppokit.training.advantages import estimate
from ppokit.training.checks import check_first_kl, check_moved, first_kl
from ppokit.training.metrics import Clock, as_numbers, peak_gb, rollout_metrics


class PPOTrainer:
    """Trains a recipe's model. The model is loaded here; the run's folder is made by the first report.

    Args:
        recipe: what to train and how.
        observers: more observers, beside the recipe's own; called on the main process.
        resume: folder of an earlier run to go on with, instead of starting in `run.out`.

    Raises:
        PpokitError: something in the recipe cannot be used; nothing has been written.
    """

    def __init__(
        self, recipe: Recipe, *, observers: Sequence[Observer] = (), resume: Path | str | None = None
    ) -> None:
        if not isinstance(recipe, Recipe):
            raise TypeError(f"got a {type(recipe).__name__}; expected a Recipe, as Recipe.load(path) gives")
        self.recipe = recipe
        self.settings = recipe.settings
        # Absolute: a reward of the user's may change the working directory.
        self.run_dir = RunDir(Path(resume if resume is not None else self.settings.run.out).absolute())
        checkpoints = list_checkpoints(self.run_dir.folder / "checkpoints")
        if resume is None:
            RunDir.check_new(self.run_dir.folder)
        elif not checkpoints:
            raise RunFolderError(f"--resume: {self.run_dir.folder} has no checkpoint to go on from.")
        self.components: TrainerComponents = build_trainer(recipe)
        self.roles, self.processes = self.components.roles, self.components.processes
        self.checkpointer = Checkpointer(recipe, self.components, self.run_dir)
        self.step = 0 if resume is None else self.checkpointer.load(checkpoints[-1])
        """Steps done."""
        self._moved = self.step > 0
        self._ended = False
        self.collector = Collector(
            self.components.generator,
            self.roles,
            self.components.tokenizer,
            lambda: self.components.master_weights.hash(self.roles.is_policy),
            self.settings,
            self.components.needs_before_update,
            self._phase,
        )
        self._canary: Canary | None = None
        if self.settings.canary is not None:
            self._canary = Canary(
                read_held_out(
                    self.settings.canary, self.components.prompts.rows, self.settings.prompts.column
                ),
                lambda rated: self.collector.recorded(
                    rated.prompts,
                    rated.responses,
                    self.step + 1,
                    needs=self.components.reward_needs,
                    separator=rated.separator,
                    rows=rated.rows,
                ),
                partial(self.components.scorer.score, learn=False),
            )
        self.clock = Clock(self.roles.device)
        self.signals = Signals(self.processes)
        self.observers = [*self.components.observers, *observers] if self.processes.is_main else []
        clear_parsed()

    def train(self) -> None:
        """Run every step that is left.

        On SIGINT or SIGTERM, and on any error, the last step is saved first, unless the weights have
        already moved on from it.

        Raises:
            Interrupted: a signal came.
            PpokitError: a plugin failed, or a number was not finite.
        """
        with self.signals.caught():
            try:
                for prompts in self.prompts:
                    rollout = self.collect(prompts)
                    rollout, rewards = self.resample(rollout, self.score(rollout))
                    advantages = self.estimate(rollout, rewards)
                    stats = self.update(rollout, advantages)
                    self.report(rollout, rewards, advantages, stats)
                with self.signals.deferred():
                    self.save()  # what a run that is done may have lost
            except (Interrupted, NonFiniteError) as error:
                with self.signals.deferred():
                    self._save_after(error)
                raise
            except BaseException as error:
                # Before the first step is done there is nothing worth a folder.
                with self.signals.deferred():
                    if self.checkpointer.opened:
                        self._save_after(error)
                raise
            finally:
                self.end()

    # The verbs

    @property
    def prompts(self) -> Iterator[PromptBatch]:
        """The prompts of the steps that are left, a step at a time."""
        return self.components.prompts.steps(self.step, self.settings.run.steps)

    def collect(self, prompts: PromptBatch) -> Rollout:
        """Answer the prompts, and compute what the recipe's components need of the answers."""
        rollout = self.collector.collect(prompts, self.step + 1)
        if not self._moved:
            check_first_kl(first_kl(rollout))
        return rollout

    def score(self, rollout: Rollout) -> Rewards:
        """Rewards of a rollout, all providers together."""
        with self._phase("reward"):
            return self.components.scorer.score(rollout)

    def resample(self, rollout: Rollout, rewards: Rewards) -> tuple[Rollout, Rewards]:
        """Drop groups of equal rewards and ask other prompts, where the recipe asks for dynamic sampling.

        What was dropped stays in the rollout, no longer marked in `rewards.trained`.
        """
        rounds = self.settings.rollout.dynamic_sampling
        if rounds is None:
            return rollout, rewards
        parts = [filter_groups(rollout, rewards)]
        for refill in range(1, rounds + 1):
            asked = [group for part, _ in parts for group in part.group_ids.tolist()]
            missing = count_groups(parts[:1]) - count_groups(parts, kept=True)
            prompts = self.components.prompts.resample(self.step, refill, missing, set(asked))
            if not len(prompts):
                break
            more = self.collect(prompts)
            parts.append(filter_groups(more, self.score(more)))
        return concat(parts)

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        """Advantages of the responses that are trained on, whitened if the recipe says so; 0 elsewhere."""
        chosen = self.recipe.advantages
        return estimate(
            self.components.estimator,
            rollout,
            rewards,
            settings=self.settings.advantages,
            where=f"advantages {chosen.name!r} (plugin {chosen.plugin}; "
            f"recipe: {self.recipe.where('advantages.use')})",
        )

    def update(
        self,
        rollout: Rollout,
        advantages: Advantages,
        *,
        epochs: int | None = None,
        minibatches: int | None = None,
    ) -> dict[str, float]:
        """Train on a rollout; the step is done after it. A signal waits until then.

        Args:
            epochs, minibatches: the recipe's, unless given.
        """
        if advantages.trained is not None and not bool(advantages.trained.all()):
            rows = advantages.trained.nonzero().flatten().tolist()
            trained, wanted = rollout.select(rows), advantages.select(rows)
        else:
            trained, wanted = rollout, advantages
        watched = self._watch()
        # Held first and let go last: a signal must not come between the weights' step and its count.
        with self.signals.deferred(), self._phase("update"):
            try:
                stats = self.components.updater.update(
                    trained, wanted, self.step, epochs=epochs, minibatches=minibatches
                )
            except NonFiniteError as error:
                with beside(error, "the samples of the failed step are not kept"):
                    self.checkpointer.keep_failed(self.step + 1, rollout, advantages)
                raise
            for provider in self.components.scorer.providers:
                if isinstance(provider.provider, Observant):
                    provider.provider.observe(rollout)
            if not self._moved:
                if trained.old_logprobs is None:  # the update's first pass was the first to know
                    check_first_kl(stats.get("kl/k3"))
                after = self.components.master_weights.hash(self.roles.is_policy)
                self._moved = check_moved(self.checkpointer.first_hash, after, wanted.advantages)
            self.step += 1
            self.checkpointer.note(self.step)
            self.roles.clear_cache()
        return {**stats, **watched}

    def report(
        self, rollout: Rollout, rewards: Rewards, advantages: Advantages, stats: dict[str, float]
    ) -> dict[str, float]:
        """Write a step's numbers and samples, tell the observers, save a checkpoint when it is time."""
        with self.signals.deferred():
            metrics = {**rollout_metrics(rollout, rewards), **as_numbers(advantages.metrics), **stats}
            seconds = self.clock.take()
            total = sum(seconds.values())
            metrics.update({f"time/{name}_s": number for name, number in seconds.items()})
            metrics["time/step_s"] = total
            metrics["tokens_per_s"] = float(rollout.response_mask.sum()) / max(total, 1e-9)
            metrics["memory/peak_gb"] = max(self.processes.gather([peak_gb(self.roles.device)]))
            if self.processes.is_main:
                self.checkpointer.open()
                self._warn(rewards, metrics)
                self.run_dir.add_metrics(self.step, metrics)
                self.run_dir.add_rollout(self.step, rollout, rewards, advantages)
                for observer in self.observers:
                    observer.on_step(self.step, rollout, rewards, metrics)
            self.checkpointer.opened = True
            run = self.settings.run
            if self.step % run.checkpoint_every == 0 or self.step == run.steps:
                self.save()
        self.signals.check()
        return metrics

    def save(self) -> None:
        """Save a checkpoint, the policy and the plot, if the last step's are not yet saved.

        Weights that a forced stop left half-way are no step's: then the checkpoint before it stands.
        """
        self.checkpointer.save()

    def end(self) -> None:
        """Tell the observers that the run is over; a second call does nothing."""
        if not self._ended:
            self._ended = True
            for observer in self.observers:
                observer.on_end()

    # With people's ratings, and without a loop

    def fit(
        self, prompts: Sequence[str], responses: Sequence[str], rewards: Sequence[float], epochs: int = 10
    ) -> dict[str, float]:
        """PPO on recorded, rated responses: one step, with these in place of rollouts and rewards.

        The importance ratio is taken against the policy as it is when fit begins, in every epoch, so that
        the loss's clip bounds how far one fit moves it; fit again to go on. Mini-batches are as large as
        the recipe's. The run's folder is written as by any step.

        Args:
            prompts: as the recipe's prompts; equal ones share a group.
            responses: one to each prompt. Where prompts are plain text, a response begins with its space.
            rewards: one finite number to each, on any scale; higher is better.
            epochs: passes over all of them.

        Returns: the step's metrics.

        Raises:
            DataError: what was given cannot be trained on.
        """
        check_given(prompts, responses, rewards, epochs)
        check_estimator(self.recipe.advantages, prompts)
        rollout = self.recorded(prompts, responses)
        given = given_rewards(rollout, rewards, self.processes)
        advantages = self.estimate(rollout, given)
        a_step = self.settings.rollout.prompts_per_step * self.settings.rollout.responses_per_prompt
        size = max(1, a_step // self.settings.update.minibatches)
        stats = self.update(
            rollout, advantages, epochs=epochs, minibatches=max(1, math.ceil(len(rollout) / size))
        )
        metrics = self.report(rollout, given, advantages, stats)
        self.save()
        return metrics

    def recorded(self, prompts: Sequence[str], responses: Sequence[str]) -> Rollout:
        """Recorded responses, with what is needed of them."""
        return self.collector.recorded(prompts, responses, self.step + 1)

    def predict(self, prompts: Sequence[str]) -> list[Prediction]:
        """What the policy, as it is now, would say: next-token probabilities and a greedy response."""
        return self.collector.view(self.step + 1).predict(prompts)

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """Greedy responses of the policy as it is now, one per prompt."""
        return self.collector.view(self.step + 1).generate(prompts).responses

    # Below the verbs

    def _save_after(self, error: BaseException) -> None:
        """Save the last step."""
        with beside(error, "the last step is not saved"):
            self.save()

    def _watch(self) -> dict[str, float]:
        """The canary's numbers, where it is time: of the policy whose responses the step trains on."""
        canary, settings = self._canary, self.settings.canary
        if canary is None or settings is None or self.step % settings.every:
            return {}
        return canary.measure()

    def _warn(self, rewards: Rewards, metrics: dict[str, float]) -> None:
        """Tell the observers what is wrong with a step."""
        for warning in step_warnings(rewards, metrics, self._canary, self.run_dir):
            for observer in self.observers:
                if isinstance(observer, Warned):
                    observer.on_warning(self.step, warning)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a phase and announce it; between phases, every process may leave together."""
        self.signals.check()
        for observer in self.observers:
            if isinstance(observer, PhaseObserver):
                observer.on_phase(self.step + 1, name)
        with self.clock.phase(name):
            yield
