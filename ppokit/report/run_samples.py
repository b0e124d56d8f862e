"""Which samples of a run are read: all, or of many steps those that are compared, and others between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ppokit.messages import listed
from ppokit.report.statistics import evenly
from ppokit.report.step_file import read_evaluation, read_outcomes, read_step

if TYPE_CHECKING:
    from ppokit.report.run_data import RunData

MAX_FILES = 160
MAX_BYTES = 200_000_000
MAX_FAILING = 160  # files of which outcomes alone are read

_FAILING = re.compile(r"rollout/failed|reward/.+/(failed|abstained)")


def read_samples(run: RunData) -> None:
    """Read what is not too much of it, and note what is missing."""
    if not run.files:
        run.missing.append("There are no samples in rollouts/, so that no response is shown.")
    allowed = _how_many(run.files)
    compared = _unread(run, chain(*run.compared()))
    compared = compared if len(compared) <= allowed else []
    _read(run, compared)
    _read(run, evenly(_unread(run, sorted(run.files)), allowed - len(compared)))
    while compared and (others := _unread(run, chain(*run.compared()))):
        _read(run, others)  # in place of what could not be read
    run.steps.sort(key=lambda samples: samples.step)
    run.skipped = len(_unread(run, run.files))
    _read_failing(run)
    _read_evaluations(run)
    _note_missing(run)


def _how_many(paths: Mapping[int, Path]) -> int:
    """How many of the files are read."""
    total = sum(path.stat().st_size for path in paths.values() if path.exists())
    allowed = MAX_FILES if total <= MAX_BYTES else min(MAX_FILES, int(len(paths) * MAX_BYTES / total))
    return max(2, min(len(paths), allowed))


def _read(run: RunData, steps: Sequence[int]) -> None:
    for step in steps:
        try:
            samples = read_step(run.files[step], step)
        except Exception:  # pyarrow has errors of its own, and of the system
            run.unreadable.add(step)
            continue
        if len(samples):
            run.steps.append(samples)
        else:
            run.unreadable.add(step)


def _unread(run: RunData, steps: Iterable[int]) -> list[int]:
    """Those of the steps whose samples are there and may be readable."""
    known = run.unreadable.union(samples.step for samples in run.steps)
    return [step for step in dict.fromkeys(steps) if step in run.files and step not in known]


def _read_failing(run: RunData) -> None:
    """Of steps whose samples are not read, the outcomes of those at which something failed or abstained."""
    names = [name for name in run.measured() if _FAILING.fullmatch(name)]
    failing = {step for name in names for step, share in zip(*run.series(name), strict=True) if share > 0}
    for step in evenly(_unread(run, sorted(failing)), MAX_FAILING):
        try:
            run.failing.append(read_outcomes(run.files[step], step))
        except Exception:  # as above
            run.unreadable.add(step)
    run.failing_unread = len(failing.difference(samples.step for samples in (*run.steps, *run.failing)))


def _read_evaluations(run: RunData) -> None:
    """The outcomes of the rewards that evaluations asked."""
    files = files_by_step(run.folder / "evaluation")
    steps = evenly(sorted(files), MAX_FAILING)
    run.evaluations_unread = len(files) - len(steps)
    for step in steps:
        try:
            run.failing += read_evaluation(files[step], step)
        except Exception:  # as above
            run.missing.append(
                f"The responses of the evaluation at step {step} cannot be read, and are left out."
            )


def files_by_step(folder: Path) -> dict[int, Path]:
    """Whole files of steps, `step-000001.parquet`, in their order."""
    paths = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    return {int(match[0]): path for path in paths if (match := re.search(r"\d+", path.stem))}


def _note_missing(run: RunData) -> None:
    known = [samples for samples in run.steps if samples.step <= run.last_step]
    if run.steps and run.steps[-1].step > run.last_step:
        run.missing.append(
            f"Step {run.steps[-1].step} failed: its samples are here, and nothing was learned from them."
        )
    absent = known[0].absent if known else []
    if absent := [name for name in absent if all(name in samples.absent for samples in known)]:
        run.missing.append(
            f"The samples have no column {listed(absent)}, as those of an older version: what is computed of "
            "it is not shown."
        )
    if broken := sorted(run.unreadable):
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        names = listed([run.files[step].name for step in broken[:3]])
        run.missing.append(
            f"The samples of {names}{more} cannot be read, as a run leaves them that is killed while it "
            "writes, and are left out."
        )
