"""Whether a run goes on, has finished, or how it ended before its last step."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ppokit.plugin.visible_text import visible

if TYPE_CHECKING:
    from ppokit.report.run_data import RunData

State = Literal["finished", "running", "stopped", "failed", "not begun"]

_QUIET_S = 60.0  # without a new line, a run has stopped; or the time of five steps, where that is longer
_FIRST_STEP_S = 3600.0  # where no step has said yet how long it took


@dataclass(frozen=True)
class End:
    """What a run itself wrote at its end, `end.json`.

    Attributes:
        step: that was done last.
        stopped_by: name of the signal that stopped it; empty for none.
        error: what ended it otherwise; empty where all its steps were done.
    """

    step: int
    stopped_by: str
    error: str

    @classmethod
    def of(cls, content: Any) -> End | None:
        """From the file's content; None where that is something else."""
        if not isinstance(content, dict) or not isinstance(step := content.get("step"), int):
            return None
        return cls(step, *(str(content.get(name) or "") for name in ("stopped_by", "error")))


def state(run: RunData, now: float | None = None) -> State:
    """How a run ended by its own word; without one, whether it has written something lately.

    Args:
        now: seconds of the epoch.
    """
    end = run.end
    if end is not None and end.error:
        return "failed"
    if run.planned is not None and (run.last_step >= run.planned or _has_no_patience(run)):
        return "finished"
    if end is not None:
        return "stopped"
    if run.changed is None:
        return "stopped" if run.files else "not begun"
    quiet = (time.time() if now is None else now) - run.changed
    return "running" if quiet < max(_QUIET_S, 5 * _step_s(run)) else "stopped"


def ending(run: RunData, now: float | None = None) -> str:
    """The same in words, for the page's first lines."""
    current, end = state(run, now), run.end
    after = f"after step {run.last_step}"
    if current == "running":
        written = f"still going when this page was written, at {_at(now)} UTC"
        return f"{written}; its last numbers are of {_at(run.changed)}"
    if current == "failed":
        return f"failed {after}"
    if current != "stopped":
        return {"finished": "finished", "not begun": "has not done a step"}[current]
    if end is None:
        return f"stopped {after} without a word, as a run that was killed or is of an older version"
    return f"stopped by {visible(end.stopped_by, 40)} {after}" if end.stopped_by else f"ended {after}"


def next_page_s(run: RunData, now: float | None = None) -> float | None:
    """In how many seconds a run that goes on should write its next page, by the steps that it has done.

    Returns: None where it does not go on, writes no pages, or does not say how long a step takes.
    """
    every, seconds = run.setting("run", "checkpoint_every"), run.series("time/step_s")[1]
    if state(run, now) != "running" or run.setting("run", "report") is False or not seconds:
        return None
    if not isinstance(every, int) or every < 1:
        return None
    steps: int = every - run.last_step % every
    if run.planned is not None:
        steps = min(steps, run.planned - run.last_step)
    evaluations = run.series("time/evaluation_s")[1]
    return steps * statistics.median(seconds) + (evaluations[-1] if evaluations else 0.0)


def _at(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def failure(run: RunData) -> str:
    """What ended the run, in a sentence; empty where it did not fail."""
    end = run.end
    return f"The run failed after step {end.step}: {end.error}" if end is not None and end.error else ""


def _step_s(run: RunData) -> float:
    """Seconds of the last step, and of the last evaluation: one may just be under way."""
    steps, evaluations = (run.series(f"time/{name}_s")[1] for name in ("step", "evaluation"))
    return (steps[-1] if steps else _FIRST_STEP_S / 5) + (evaluations[-1] if evaluations else 0.0)


def _has_no_patience(run: RunData) -> bool:
    """Whether `evaluation.patience` has ended it: so many evaluations brought no better one."""
    best, patience = run.setting("evaluation", "best"), run.setting("evaluation", "patience")
    if not isinstance(best, str) or not isinstance(patience, int):
        return False
    sign = -1 if run.setting("evaluation", "best_is") == "lowest" else 1
    values = [sign * value for value in run.series(best)[1]]
    return bool(values) and len(values) - 1 - values.index(max(values)) >= patience
