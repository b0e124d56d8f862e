"""Responses that moved most, the best and the worst, and what the best have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppokit.plugin.visible_text import one_line, visible
from ppokit.report.choose import Chosen
from ppokit.report.patterns import Phrase, common_phrases, near_duplicates
from ppokit.report.pool import Pool
from ppokit.report.run_data import RunData
from ppokit.report.shown_samples import Shown
from ppokit.report.step_file import read_step

EXCERPT = 150
MOST_BEST, MOST_FIRST = 200, 400  # responses whose words are compared

_MOVED_SINCE_REFERENCE = (
    "By how many nats the log-probability of the whole response is above that of the reference, before "
    "its step's update: what training so far has made likelier."
)
_UNKNOWN = (
    "The samples have neither kl/k1, for want of a reference, nor log_ratio, which run.token_columns keeps: "
    "which responses have moved is not known."
)
_TOO_FEW = "There are too few responses to say."
_MOVED_IN_STEP = "By how many nats the log-probability of the whole response rose in its own step's update."


@dataclass(frozen=True)
class Item:
    """A response in a list."""

    number: float
    step: int
    text: str
    sample: int


@dataclass(frozen=True)
class Repeated:
    """Near-duplicates: how many, and one of them."""

    count: int
    text: str


@dataclass(frozen=True)
class Movers:
    """A run's lists of responses.

    Attributes:
        note: by what responses have moved, or why that is not known.
        is_known: whether it is.
        up, down: those that became likelier and less likely.
        patterns_note: of which responses `phrases` and `clusters` are, or why there are none.
        are_compared: whether there were enough of them.
    """

    note: str
    is_known: bool
    up: Sequence[Item]
    down: Sequence[Item]
    best: Sequence[Item]
    worst: Sequence[Item]
    phrases: Sequence[Phrase]
    clusters: Sequence[Repeated]
    patterns_note: str
    are_compared: bool


def movers(run: RunData, pool: Pool, chosen: Chosen, shown: Shown) -> Movers:
    """Of a run, those that its page holds."""
    patterns = _patterns(run, pool)
    phrases, clusters, patterns_note = patterns or ([], [], _TOO_FEW)
    by_reference = chosen.by_reference
    is_known = any(np.isfinite(own).any() for samples in run.steps for own in (samples.kl, samples.change))
    moved = _MOVED_SINCE_REFERENCE if by_reference else _MOVED_IN_STEP
    return Movers(
        note=moved if is_known or not run.steps else _UNKNOWN,
        is_known=is_known,
        up=_items(chosen.up, shown, "k" if by_reference else "d"),
        down=_items(chosen.down, shown, "k" if by_reference else "d"),
        best=_items(chosen.best, shown, "s"),
        worst=_items(chosen.worst, shown, "s"),
        phrases=phrases,
        clusters=clusters,
        patterns_note=patterns_note,
        are_compared=patterns is not None,
    )


def _items(rows: Sequence[tuple[int, int]], shown: Shown, number: str) -> list[Item]:
    items = []
    for step, row in rows:
        if (step, row) in shown.index:
            sample = shown.samples[shown.index[step, row]]
            value = sample.get(number)
            text = one_line(sample["x"], EXCERPT) or "(empty)"
            items.append(Item(float("nan") if value is None else value, step, text, shown.index[step, row]))
    return items


def _patterns(run: RunData, pool: Pool) -> tuple[list[Phrase], list[Repeated], str] | None:
    """Words and near-duplicates of the best quarter of the last steps, against the first steps, and of which.

    None where there are too few responses.
    """
    last = _texts(run, pool.last)
    scored = sorted((answer for answer in last if np.isfinite(answer[0])), key=lambda each: -each[0])
    answers = [answer[1:] for answer in scored[: max(1, min(MOST_BEST, len(scored) // 4))]]
    best = [text for _, text in answers]
    first = [answer[1:] for answer in _texts(run, pool.first)][:MOST_FIRST]
    if len(best) < 4 or not first:
        return None
    clusters = near_duplicates(best)
    repeated = [Repeated(len(c.members), one_line(best[c.members[0]], EXCERPT)) for c in clusters]
    phrases = [Phrase(visible(p.text, 120), p.best, p.first) for p in common_phrases(answers, first)]
    step = "step" if len(pool.last) == 1 else f"{len(pool.last)} steps"
    note = (
        f"Word sequences of the {len(best)} best responses of the last {step}, and the share of the "
        f"responses of the first {step} that had them. What stands in a response's own prompt, or in "
        "responses to one prompt alone, does not count."
    )
    return phrases, repeated, note


def _texts(run: RunData, steps: Sequence[int]) -> list[tuple[float, str, str]]:
    """Score, prompt and text of the responses of some steps."""
    out: list[tuple[float, str, str]] = []
    for samples in run.steps:
        if samples.step in steps and samples.step in run.files:
            try:
                read = read_step(run.files[samples.step], samples.step, range(len(samples)))
            except Exception:  # gone since
                continue
            out += zip(read.score.tolist(), read.prompts, read.responses, strict=True)
    return out
