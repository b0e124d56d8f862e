"""Sends each step's metrics to an experiment tracker, through Accelerate's own integrations.

TensorBoard, Weights & Biases, Trackio, Comet, Aim, MLflow, ClearML, DVCLive or SwanLab, whichever
`accelerate.tracking` speaks to. It opens at the first step and closes at the end of the run, an
interrupt included. Accelerate's TensorBoard integration writes to `logging_dir/project`: give each run
a project or a folder of its own, or their curves are drawn over each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from ppokit.plugin import BuildContext, CheckContext, Component, Options, hookimpl

TrackerName = Literal[
    "tensorboard", "wandb", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab"
]
_MODULES = {"tensorboard": ("tensorboard", "tensorboardX")}  # every other is named like its module


class TrackerOptions(Options):
    log_with: TrackerName = Field(description="Which tracker; its package must be installed.")
    project: str = Field("ppokit", min_length=1, description="Project, or run, under which it is filed.")
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
    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._tracker is None:
            self._tracker = self._open()
        self._tracker.log(dict(metrics), step=step)

    @hookimpl
    def on_run_end(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.finish()

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
