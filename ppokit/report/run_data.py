"""What a run's folder holds, as plain data: also of one that goes on, was killed or is of an older layout."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppokit.errors import DataError, first_line
from ppokit.plugin.visible_text import visible
from ppokit.report.run_samples import files_by_step, read_samples
from ppokit.report.run_state import End
from ppokit.report.run_warnings import read_warnings
from ppokit.report.statistics import window
from ppokit.report.step_file import Samples

_SELDOM = {"failed": 0.0, "abstained": 0.0, "imputed": 0.0, "retried": 0.0, "scored": 1.0}
"""What a step's metric `reward/<name>/...` is where the step has none: nothing of the kind happened."""


@dataclass
class RunData:
    """A run.

    Attributes:
        recipe: as plain data; empty where it cannot be read.
        metrics: a mapping per line of metrics.jsonl, in the order of the steps; numbers, or None.
        steps: samples of the steps that were read, in their order, without texts.
        files: of samples, by step.
        unreadable: steps whose samples are damaged.
        skipped: steps whose samples exist and were not read, since there are so many.
        failing: outcomes alone, of those of them at which the metrics show failures or abstentions and of
            evaluations.
        failing_unread: how many other steps show some, whose samples are not there or were not read.
        missing: sentences on what is not there or cannot be read.
        evaluations_unread: how many there are beyond those in `failing`.
        title: a name that tells it from other runs, where its folder's does not.
        changed: when metrics.jsonl was written last, in seconds of the epoch; None without it.
        warnings: what the run itself warned of, and after which step.
        end: how the run says that it ended; None where it does not say.
    """

    folder: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float | None]] = field(default_factory=list)
    steps: list[Samples] = field(default_factory=list)
    files: dict[int, Path] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    skipped: int = 0
    failing: list[Samples] = field(default_factory=list)
    failing_unread: int = 0
    evaluations_unread: int = 0
    missing: list[str] = field(default_factory=list)
    changed: float | None = None
    title: str = ""
    warnings: list[tuple[int, str]] = field(default_factory=list)
    end: End | None = None

    @property
    def name(self) -> str:
        """What it is called on a page: as its folder, unless another run there is too."""
        return self.title or self.folder.name or str(self.folder)

    @property
    def last_step(self) -> int:
        """The step that was done last; 0 before the first. Samples alone may be of a step that failed."""
        if self.end is not None:
            return self.end.step
        return max(self.files if self.changed is None else self._measured_steps(), default=0)

    def _measured_steps(self) -> list[int]:
        return [int(line["step"] or 0) for line in self.metrics]

    @property
    def planned(self) -> int | None:
        """Steps of the whole run."""
        steps = self.setting("run", "steps")
        return steps if isinstance(steps, int) else None

    def setting(self, name: str, key: str) -> Any:
        """A key of a section of the recipe; None where it has none."""
        return section(self.recipe, name).get(key)

    def measured(self) -> list[str]:
        """Names of the metrics that are a number at some step, in the order of their first one."""
        names = dict.fromkeys(n for line in self.metrics for n, value in line.items() if value is not None)
        return [name for name in names if name != "step"]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps at which a metric is a number, and these numbers.

        What only steps with failures have, as `reward/judge/failed`, is 0 at the others, where there are
        numbers of `reward/judge` at all.
        """
        absent = _where_absent(name)
        of = name.rpartition("/")[0] if absent is not None else name
        if not any(name in line or of in line for line in self.metrics):
            return [], []
        points = [
            (step, line.get(name, absent if step > 0 else None))
            for line in self.metrics
            for step in (int(line["step"] or 0),)
        ]
        known = [(step, value) for step, value in points if value is not None]
        return [step for step, _ in known], [value for _, value in known]

    def compared(self) -> tuple[list[int], list[int]]:
        """The first and the last steps, which are compared with each other.

        Steps with a reward; where most of them have samples, those with samples that can be read.
        """
        steps = self.series("reward/mean")[0]
        sampled = [step for step in steps if step in self.files and step not in self.unreadable]
        steps = sampled if 2 * len(sampled) > len(steps) else steps
        steps = steps or [samples.step for samples in self.steps if np.isfinite(samples.score).any()]
        steps = steps or [int(line["step"]) for line in self.metrics if line["step"]]
        count = window(steps)
        return steps[:count], steps[-count:]


def _where_absent(name: str) -> float | None:
    if name in ("reward/excluded", "rollout/failed"):
        return 0.0
    return _SELDOM.get(name.rpartition("/")[2]) if re.fullmatch("reward/.+/.+", name) else None


def section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping within a mapping; an empty one where there is none."""
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def is_run(folder: Path) -> bool:
    """Whether it holds what only a run writes: a recipe alone may be anybody's."""
    return (folder / "metrics.jsonl").is_file() or (folder / "rollouts").is_dir()


def read_run(folder: Path, *, samples: bool = True) -> RunData:
    """Read what is there.

    Args:
        samples: whether the samples' files are read too.

    Raises:
        DataError: it is not the folder of a run: it has neither metrics nor samples.
    """
    run = RunData(folder.absolute())
    if not folder.is_dir():
        raise DataError(f"{folder} is {'no folder' if folder.exists() else 'not there'}; expected a run's")
    if not is_run(folder):
        raise DataError(f"{folder} is not the folder of a run: it has no metrics.jsonl and no rollouts/.")
    _read_recipe(run)
    _read_provenance(run)
    run.files = files_by_step(folder / "rollouts")
    _read_metrics(run)  # after the files: a step that is being done has its numbers before its samples
    _read_end(run)
    run.warnings = read_warnings(folder)
    if samples:
        read_samples(run)
    return run


def _read_recipe(run: RunData) -> None:
    import yaml

    path = run.folder / "recipe.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        json.dumps(content, default=str, skipkeys=True)  # of what holds itself there is no end
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        run.missing.append(_unreadable(path, error, "what the run was asked to do is not shown"))
        return
    if isinstance(content, dict):
        run.recipe = content
    else:
        run.missing.append(f"{path.name} holds no recipe.")


def _read_provenance(run: RunData) -> None:
    path = run.folder / "provenance.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        run.missing.append(_unreadable(path, error, "versions, plugins and machine are not shown"))
        return
    if isinstance(content, dict):
        run.provenance = content


def _read_end(run: RunData) -> None:
    """A run that goes on, was killed, or is of an older version has none, or one of before it went on."""
    try:
        end = End.of(json.loads((run.folder / "end.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return
    if end is not None and end.step >= max(run._measured_steps(), default=0):
        run.end = end


def _read_metrics(run: RunData) -> None:
    path = run.folder / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        run.changed = path.stat().st_mtime
    except OSError as error:
        run.missing.append(_unreadable(path, error, "no curve is shown"))
        return
    by_step: dict[float, dict[str, float | None]] = {}
    lines = text.split("\n")
    names: dict[str, str] = {}
    damaged = 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            step = float(int(content["step"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            damaged += number < len(lines) - 1  # an unfinished last line is what a kill leaves
            continue
        names.update({name: _name(name) for name in content.keys() - names.keys()})
        numbers = {names[name]: _number(v) for name, v in content.items() if _is_number(v)}
        by_step[step] = {**by_step.get(step, {}), **numbers, "step": step}
    run.metrics = [by_step[step] for step in sorted(by_step)]
    if damaged:
        lines_are = "1 line of metrics.jsonl is" if damaged == 1 else f"{damaged} lines of metrics.jsonl are"
        run.missing.append(f"{lines_are} damaged and left out.")


def _name(metric: str) -> str:
    """On one line: the page's script reads several of them as lines."""
    return visible(metric, 200).replace("\n", "⟨U+000A⟩")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: float | None) -> float | None:
    try:
        return None if value is None or not math.isfinite(value) else float(value)
    except OverflowError:
        return None


def _unreadable(path: Path, error: Exception, so: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path.name} is not there: {so}."
    return f"{path.name} cannot be read ({first_line(error)[:200]}): {so}."
