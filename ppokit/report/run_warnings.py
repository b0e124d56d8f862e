"""What a run itself warned of while it went on, `warnings.jsonl`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ppokit.report.finding import Finding
from ppokit.report.statistics import step_names

if TYPE_CHECKING:
    from ppokit.report.pool import Pool
    from ppokit.report.run_data import RunData

SHOWN = 12
_NUMBER = re.compile(r"\d+(\.\d+)?")
_FAILED = re.compile(r"the reward .+ failed for \d+ of \d+ responses", re.DOTALL)


def read_warnings(folder: Path) -> list[tuple[int, str]]:
    """Steps and texts; damaged lines, and all of a file that cannot be read, are left out."""
    try:
        lines = (folder / "warnings.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    known = []
    for line in lines:
        try:
            content = json.loads(line)
            known.append((int(content["step"]), str(content["text"])))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return known


def warned(run: RunData, pool: Pool) -> Iterator[Finding]:
    """The last of those that differ in numbers only, with their steps; the newest first.

    Failed rewards are left out where they are counted from the samples.
    """
    alike: dict[str, list[tuple[int, str]]] = {}
    counted = bool(run.steps or run.failing)
    for step, text in run.warnings:
        if not (counted and _FAILED.search(text)):
            alike.setdefault(_NUMBER.sub("#", text), []).append((step, text))
    newest = sorted(alike.values(), key=lambda own: -own[-1][0])
    for own in newest[:SHOWN]:
        times = f", {len(own)} times, the last time" if len(own) > 1 else ""
        steps = step_names(sorted({step for step, _ in own}))
        text = own[-1][1]
        yield Finding("warning", f"The run warned at {steps}{times}: {text}.", _link(run, text))
    if len(newest) > SHOWN:
        more = f"The run warned of {len(newest) - SHOWN} more, which stand in its warnings.jsonl."
        yield Finding("note", more, "#curves")


def _link(run: RunData, text: str) -> str:
    """To the curve of the metric that a warning names, or to what failed."""
    named = max((name for name in run.measured() if name in text), key=len, default="")
    if named:
        return f"#curve:{named}"
    return "#failures" if "failed" in text or "abstained" in text else "#curves"
