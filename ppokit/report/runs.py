"""The runs in a folder, a line each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ppokit.errors import DataError
from ppokit.report.run_data import RunData, is_run, read_run
from ppokit.report.run_state import State, state
from ppokit.report.verdict import evaluation_metrics

DEEPEST = 2


@dataclass(frozen=True)
class Summary:
    """A run in a line.

    Attributes:
        name: its folder, from where was looked.
        changed: seconds of the epoch at which its metrics were written last; None for none.
        evaluation: the metric that its evaluation columns show; empty without evaluation.
        evaluation_best: where the recipe says which value is the best (`evaluation.best`); None otherwise.
        evaluation_last: of an evaluation after the first; None without one.
    """

    name: str
    state: State
    step: int
    steps: int | None
    changed: float | None
    reward_first: float | None
    reward_last: float | None
    evaluation: str
    evaluation_first: float | None
    evaluation_best: float | None
    evaluation_last: float | None

    @property
    def changed_at(self) -> str:
        """Date and time, of this machine's clock."""
        if self.changed is None:
            return "-"
        return datetime.fromtimestamp(self.changed, UTC).astimezone().strftime("%Y-%m-%d %H:%M")

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def find_runs(folder: Path) -> list[Summary]:
    """The runs in a folder and the folders in it, the one that was written last first."""
    summaries = [_summary(read_run(path, samples=False), folder) for path in _run_folders(folder, DEEPEST)]
    return sorted(summaries, key=lambda summary: -(summary.changed or 0.0))


def _run_folders(folder: Path, deep: int) -> list[Path]:
    if is_run(folder):
        return [folder]
    if deep == 0:
        return []
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}") from error
    return [run for path in inner for run in _run_folders(path, deep - 1)]


def _summary(run: RunData, folder: Path) -> Summary:
    rewards = run.series("reward/mean")[1]
    name = next(iter(evaluation_metrics(run)), "")
    evaluated = run.series(name)[1]
    best = min if run.setting("evaluation", "best_is") == "lowest" else max
    knows_best = bool(evaluated) and name == run.setting("evaluation", "best")
    path = run.folder.relative_to(folder.absolute()) if run.folder != folder.absolute() else Path(run.name)
    return Summary(
        name=str(path),
        state=state(run),
        step=run.last_step,
        steps=run.planned,
        changed=run.changed,
        reward_first=rewards[0] if rewards else None,
        reward_last=rewards[-1] if rewards else None,
        evaluation=name,
        evaluation_first=evaluated[0] if evaluated else None,
        evaluation_best=best(evaluated) if knows_best else None,
        evaluation_last=evaluated[-1] if len(evaluated) > 1 else None,
    )
