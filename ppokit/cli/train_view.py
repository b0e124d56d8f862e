"""What a person sees of a run: a line per step, a sample now and then, a progress bar on a terminal."""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from ppokit.errors import Interrupted, printable
from ppokit.models.quantization import is_4bit
from ppokit.plugin import hookimpl
from ppokit.report.verdict import evaluation_rank, is_gain

if TYPE_CHECKING:
    from ppokit.plugin.types import Rewards, Rollout
    from ppokit.trainer import PPOTrainer

SAMPLE_WIDTH = 160
EVALUATED = 4  # numbers of an evaluation


class _PipeConsole(Console):
    """A console whose closed pipe ends the run as a signal does: the last step is saved."""

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()  # what is still buffered goes nowhere
        except SystemExit:
            raise Interrupted(signal.SIGPIPE) from None


class Display:
    """An observer that prints; `begin` comes before the first step."""

    def __init__(self, steps: int, sample_every: int) -> None:
        self.steps = steps
        self.sample_every = sample_every
        self.console = _PipeConsole(highlight=False, soft_wrap=True)
        self.first: float | None = None
        self.last = math.nan
        self._best: str | None = None
        self._progress: Progress | None = None
        self._started = time.monotonic()
        self._done_before = 0

    def begin(self, trainer: PPOTrainer) -> None:
        """Say what is about to run, and how much memory it was given."""
        components, roles = trainer.components, trainer.roles
        trained = sum(param.numel() for param in roles.trainable.values())
        device = (
            f"{components.processes.count} x {roles.device.type}"
            if components.processes.count > 1
            else roles.device.type
        )
        dtype = str(roles.dtype).removeprefix("torch.")
        self._print(f"model    {trainer.settings.model.name}")
        if is_4bit(roles.model):
            dtype = f"4 bits, the rest in {dtype},"
        self._print(f"         {dtype} on {device}, {trained:,} parameters train")
        audit = ", ".join(f"{name} {_bytes(size)}" for name, size in components.audit.items() if size)
        self._print(f"memory   {audit}")
        self._print(f"prompts  {len(components.prompts.rows)} in {trainer.settings.prompts.path}")
        self._folder = _from_here(trainer.run_dir.folder)
        self._print(f"run      {self._folder}")
        if trainer.step >= self.steps:
            self._print(f"         {_steps(trainer.step)} done; run.steps={trainer.step + 10} would go on")
        elif trainer.stopped:
            self._print(f"         {_steps(trainer.step)} done; a larger evaluation.patience would go on")
        evaluation = trainer.settings.evaluation
        self._best = None if evaluation is None else evaluation.best
        self._print("")
        self._started, self._done_before = time.monotonic(), trainer.step
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._progress.add_task("starting", total=self.steps, completed=trainer.step)
            self._progress.start()

    @hookimpl
    def on_phase(self, step: int, phase: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, description=f"step {step}: {phase}")

    @hookimpl
    def on_step(self, step: int, rollout: Rollout, rewards: Rewards, metrics: Mapping[str, float]) -> None:
        mean = metrics["reward/mean"]
        if not math.isnan(mean):  # of a step in which something was scored
            self.last = mean
            self.first = mean if self.first is None else self.first
        kl = f"  KL {metrics['kl/k1']:.4f}" if "kl/k1" in metrics else ""
        left = (time.monotonic() - self._started) / (step - self._done_before) * (self.steps - step)
        self._print(
            f"step {step:>{len(str(self.steps))}}/{self.steps}  reward {mean:7.3f}{kl}"
            f"  length {metrics['response/length']:5.1f}  {metrics['time/step_s']:5.1f} s  {_time(left)} left"
        )
        if self.sample_every and step % self.sample_every == 0:
            self._sample(rollout, rewards)
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    @hookimpl
    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        names = [name for name in metrics if name.startswith("eval/") and not is_gain(name, metrics)]
        names.sort(key=lambda name: evaluation_rank(name, metrics, self._best))
        numbers = [
            f"{name} {metrics[name]:.3f}"
            + (f" ({metrics[f'{name}/gain']:+.3f})" if f"{name}/gain" in metrics else "")
            for name in names
        ]
        rest = f"  and {len(numbers) - EVALUATED} more" if len(numbers) > EVALUATED else ""
        number = f"{step:>{len(str(self.steps))}}/{self.steps}"
        self._print(f"step {number}  {'  '.join(numbers[:EVALUATED])}{rest}")

    @hookimpl
    def on_warning(self, step: int, text: str) -> None:
        self._print(f"warning, step {step}: {text}", style="bold yellow")

    @hookimpl
    def on_run_end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def compare(self, prompts: Sequence[str], before: Sequence[str], after: Sequence[str]) -> None:
        """The same prompts before and after, likeliest tokens only."""
        self._print("\nBefore and after, likeliest tokens only:")
        for prompt, old, new in zip(prompts, before, after, strict=True):
            self._print(f"\n  {_line(prompt)}")
            self._print(f"    before  {_line(old)}")
            self._print(f"    after   {_line(new)}", style="bold")

    def summarize(self, trainer: PPOTrainer) -> None:
        """Print the reward's change, and where the results are."""
        folder = self._folder
        steps = f"{trainer.step} step{'' if trainer.step == 1 else 's'}"
        if self.first is not None:
            self._print(f"\nreward {self.first:.3f} -> {self.last:.3f} in {steps}")
        elif trainer.step > self._done_before:
            self._print(f"\nno response was scored in {steps}: nothing was learned from rewards")
        if (folder / "report.html").exists():
            self._print(f"report   {folder / 'report.html'}")
        self._print(f"plot     {folder / 'reward.png'}")
        self._print(f"policy   {folder / 'policy'}")
        best = folder / "policy-best"
        if best.exists():
            kept = json.loads((best / "best.json").read_text(encoding="utf-8"))
            metric = trainer.settings.evaluation and trainer.settings.evaluation.best
            self._print(f"best     {best} (step {kept['step']}, {metric} {kept['value']:.3f})")
        self._print(f'try it   ppokit generate {shlex.quote(str(folder))} "your prompt" --base')

    def _sample(self, rollout: Rollout, rewards: Rewards) -> None:
        index = len(rollout) // 2
        score = float(rewards.scores[index])
        self._print(
            f"    {_line(rollout.prompts[index])} […] {_line(rollout.responses[index])}  ({score:+.2f})",
            "dim",
        )

    def _print(self, text: str, style: str = "") -> None:
        # Text, not markup, and no escape sequence: a model may write anything.
        self.console.print(Text(printable(text, keep="\n"), style=style))


def _from_here(folder: Path) -> Path:
    """As short as a path from the working directory can be."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _line(text: str) -> str:
    """One line that a terminal shows harmlessly, not too long."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= SAMPLE_WIDTH else flat[: SAMPLE_WIDTH - 1] + "…"


def _steps(count: int) -> str:
    return "1 step is" if count == 1 else f"{count} steps are"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
