"""What must not suffer while a use gets better: how much each guard has lost in a run, and how it is shown.

A loss is a share: 0.05 is five percent, and below 0 the guard has gained. Numbers are of greedy responses, or
of sampled ones where there are no greedy ones; perplexity is of texts that have nothing to do with the use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from uses import BOUND

Run = Mapping[str, Any]


def length_loss(before: float, after: float, reference: float) -> float:
    """By which share of the references' length the responses' is further from it than before.

    On the other side of it than before, all that they are off by counts.
    """
    off = abs(after - reference)
    same_side = (after - reference) * (before - reference) >= 0
    return (off - abs(before - reference) * same_side) / reference


def _length(run: Run) -> float:
    words = run["words"]
    return length_loss(words["before"], words["after"], words["reference"])


def _repeated(run: Run) -> list[float]:
    numbers = (run["evaluation"][when] for when in ("before", "after"))
    return [own.get("greedy/repetition", own.get("sampled/repetition", float("nan"))) for own in numbers]


def _repetition(run: Run) -> float:
    before, after = _repeated(run)
    return 1 - (1 - after) / (1 - before)


def variety_loss(after: float, reference: float) -> float:
    """By which share the variety is below what it was, or below the references', where people vary less.

    Args:
        after: of 1 before.
        reference: likewise.
    """
    return 1 - after / min(1.0, reference)


def _distinct_change(run: Run) -> float:
    """Of 1 before."""
    after: float = run["distinct_2"]["after"] / run["distinct_2"]["before"]
    return after


def _distinct(run: Run) -> float:
    return variety_loss(_distinct_change(run), run["distinct_2"]["reference"])


def _perplexity(run: Run) -> float:
    before, after = (
        run["evaluation"][when].get("texts/perplexity", float("nan")) for when in ("before", "after")
    )
    return after / before - 1


def _words(runs: Sequence[Run]) -> str:
    before, after, reference = (
        mean(run["words"][key] for run in runs) for key in ("before", "after", "reference")
    )
    return f"{before:.1f} to {after:.1f} ({reference:.1f})"


def _percent_distinct(runs: Sequence[Run]) -> str:
    after = mean(map(_distinct_change, runs))
    reference = mean(run["distinct_2"]["reference"] for run in runs)
    return f"{after - 1:+.0%} ({reference - 1:+.0%})"


def _percent_repeated(runs: Sequence[Run]) -> str:
    before, after = (mean(own) for own in zip(*map(_repeated, runs), strict=True))
    return f"{before:.1%} to {after:.1%}"


def _percent_perplexity(runs: Sequence[Run]) -> str:
    return f"{mean(map(_perplexity, runs)):+.0%}"


@dataclass(frozen=True)
class Guard:
    """What must not suffer.

    Attributes:
        loss: of a run, as a share.
        shown: before and after, of runs of several seeds.
    """

    loss: Callable[[Run], float]
    shown: Callable[[Sequence[Run]], str]

    def is_lost(self, runs: Sequence[Run]) -> bool:
        """Whether more is lost than the bound, by the mean of the seeds; also where it was not measured."""
        return not mean(map(self.loss, runs)) <= BOUND

    def cell(self, runs: Sequence[Run]) -> str:
        """Bold where too much was lost; with the worst seed's loss where only that is too much."""
        text, worst = self.shown(runs), max(map(self.loss, runs))
        if self.is_lost(runs):
            return f"**{text}**"
        return f"{text} (worst {worst:.0%})" if worst > BOUND else text


GUARDS = {
    "words (references)": Guard(_length, _words),
    "repeated": Guard(_repetition, _percent_repeated),
    "distinct-2 (references)": Guard(_distinct, _percent_distinct),
    "perplexity": Guard(_perplexity, _percent_perplexity),
}
"""By its heading.

`repeated` is the share of runs of three words that stand in their response before; its loss is that of the
share which does not. `distinct-2` is of as many pairs of words as before, of the responses and of the
references.
"""
