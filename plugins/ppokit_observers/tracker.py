"""Sends each step's metrics, and tables of samples, to an experiment tracker.

It goes through Accelerate's integrations.

TensorBoard, Weights & Biases, Trackio, Comet, Aim, MLflow, ClearML, DVCLive or SwanLab, whichever
`accelerate.tracking` speaks to. It opens at the first step and closes at the end of the run, an
interrupt included. Accelerate's TensorBoard integration writes to `logging_dir/project`: give each run
a project or a folder of its own, or their curves are drawn over each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    Options,
    Recorded,
    Rewards,
    Rollout,
    hookimpl,
)
from ppokit_observers.sample_tables import (
    Table,
    as_markdown,
    evaluation_table,
    training_table,
    without_markup,
)

TrackerName = Literal[
    "tensorboard", "wandb", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab"
]
_MODULES = {"tensorboard": ("tensorboard", "tensorboardX")}  # every other is named like its module


class TrackerOptions(Options):
    log_with: TrackerName = Field(description="Which tracker; its package must be installed.")
    project: str = Field("ppokit", min_length=1, description="Project, or run, under which it is filed.")
    samples_every: int = Field(
        10,
        ge=0,
        description="Steps between tables of samples, for tensorboard, wandb and trackio; evaluations have "
        "theirs each time. 0 sends none.",
    )
    samples: int = Field(8, ge=1, description="Rows of a table, at most.")
    logging_dir: str = Field(
        "runs/tracker",
        min_length=1,
        description="Folder for the trackers that write files (tensorboard, aim); others ignore it.",
    )


class Tracker:
    def __init__(self, options: TrackerOptions, context: BuildContext) -> None:
        self.options = options
        self._tracker: Any = None

    @hookimpl
    def on_step(self, step: int, rollout: Rollout, rewards: Rewards, metrics: Mapping[str, float]) -> None:
        self._opened().log(dict(metrics), step=step)
        every = self.options.samples_every
        if every and (step % every == 0 or step == 1):
            self._send("samples/training", training_table(rollout, rewards, self.options.samples), step)

    @hookimpl
    def on_evaluation(self, step: int, metrics: Mapping[str, float], records: Sequence[Recorded]) -> None:
        if step == 0:  # later ones stand with their step's metrics
            self._opened().log(dict(metrics), step=step)
        if self.options.samples_every:
            for record in records:
                table = evaluation_table(record, self.options.samples)
                self._send(f"samples/eval/{record.evaluator}", table, step)

    @hookimpl
    def on_run_end(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.finish()

    def _send(self, name: str, table: Table, step: int) -> None:
        """A table, to a tracker that has any."""
        if self.options.log_with == "tensorboard":
            self._opened().log({name: as_markdown(table)}, step=step)
        elif self.options.log_with == "wandb":
            self._opened().log_table(name, columns=table[0], data=table[1], step=step)
        elif self.options.log_with == "trackio":
            import trackio

            self._opened().log({name: trackio.Table(data=without_markup(table))}, step=step)

    def _opened(self) -> Any:
        if self._tracker is None:
            self._tracker = self._open()
        return self._tracker

    def _open(self) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[self.options.log_with]
        folder = [self.options.logging_dir] if kind.requires_logging_directory else []
        tracker = kind(self.options.project, *folder)
        tracker.start()
        return tracker


def check(options: TrackerOptions, context: CheckContext) -> Iterable[str]:
    name = options.log_with
    if not any(find_spec(module) for module in _MODULES.get(name, (name,))):
        package = "'ppokit[trackers]'" if name == "tensorboard" else name
        yield f"the package of the tracker {name} is not installed: pip install {package}"


@hookimpl
def ppokit_observers() -> list[Component]:
    return [Component("tracker", Tracker, options=TrackerOptions, check=check)]
