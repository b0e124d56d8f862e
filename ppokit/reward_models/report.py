"""What a fit measured, for `report.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppokit.ratings.agreement import Estimate, rank_correlation, spearman_brown, split_half
from ppokit.ratings.arrays import arrays_of
from ppokit.ratings.records import RatingTable
from ppokit.ratings.splitting import same_prompt
from ppokit.reward_models import quality as measures
from ppokit.reward_models.quality import Calibration, Share
from ppokit.reward_models.samples import Choice, Sample

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats
    from ppokit.reward_models.probe import Tried
    from ppokit.reward_models.training import Epoch


@dataclass(frozen=True)
class Size:
    """Of one part."""

    samples: int
    prompts: int


@dataclass(frozen=True)
class Quality:
    """On the test part, which neither training nor stopping saw.

    Attributes:
        spearman: rank correlation with the mean rating; None for choices.
        pairs: accuracy over pairs of any responses, or over choices; None where there are none.
        pairs_of_a_prompt: over pairs of responses to one prompt.
        calibration: whether a score of 1 means a rating of 1.
        heads_std: mean over texts of the standard deviation of the heads' scores; None for one head.
        std_error_correlation: rank correlation of that deviation with the error; None for choices.
    """

    spearman: Estimate | None
    pairs: Share | None
    pairs_of_a_prompt: Share | None
    calibration: Calibration
    heads_std: float | None
    std_error_correlation: float | None

    @property
    def main(self) -> Estimate:
        """The number that the learning curve shows: Spearman, or for choices pair accuracy."""
        if self.spearman is not None:
            return self.spearman
        assert self.pairs is not None
        return self.pairs


@dataclass(frozen=True)
class CurvePoint:
    """The main number of a model that was fitted to a share of the samples."""

    share: float
    samples: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """The raters' own agreement on the test part, of ratings or of choices.

    Attributes:
        split_half: Spearman correlation of two halves of the raters; None for choices.
        two_panels: what two panels of all raters would reach, by Spearman-Brown; None for choices.
        same_choice: for choices, how often two raters of a pair prefer the same response; None for ratings.
        ceiling: what a model can be expected to reach at most: the square root of `two_panels`; for choices,
            see `choice_ceiling`.
    """

    split_half: Estimate | None
    two_panels: Estimate | None
    same_choice: Estimate | None
    ceiling: float


@dataclass(frozen=True)
class Report:
    """All that a fit measured.

    Attributes:
        objective: `regression` or `bradley_terry`.
        score: what a score means.
        sizes: of `fit`, `validation` and `test`.
        agreement: None where hardly a response, or pair, was rated twice.
        curve: from few samples to all.
        gain: main number with all samples minus that with the next smaller share, on the same prompts.
        history: losses of the final fit, by epoch or by penalty.
        settings: how it was fitted.
        seconds, cpu_seconds: wall clock and processor time.
    """

    source: str
    model: str
    kind: str
    objective: str
    score: str
    sizes: dict[str, Size]
    quality: Quality
    agreement: Agreement | None
    curve: list[CurvePoint]
    gain: Estimate | None
    history: list[Epoch | Tried]
    settings: dict[str, Any]
    notes: list[str]
    seconds: float
    cpu_seconds: float

    def write(self, path: Path) -> None:
        """Write as JSON; a number that is not finite becomes null."""
        path.write_text(json.dumps(_finite(asdict(self)), indent=2) + "\n", encoding="utf-8")


def size_of(samples: Sequence[Sample] | Sequence[Choice]) -> Size:
    """How many samples, and of how many prompts."""
    return Size(len(samples), len({same_prompt(sample.prompt) for sample in samples}))


def quality_of(samples: Sequence[Any], scores: Floats, others: Floats | None, seed: int) -> Quality:
    """Measure scores.

    Args:
        scores: of each head, of the responses, or of the chosen ones. [N, heads]
        others: of the rejected ones. [N, heads]
    """
    prompts = [sample.prompt for sample in samples]
    single, several = scores.mean(axis=1), scores.shape[1] > 1
    if others is not None:
        margins = single - others.mean(axis=1)
        heads_std = float((scores - others).std(axis=1).mean()) if several else None
        share = measures.choice_accuracy(margins, prompts, seed=seed)
        return Quality(None, share, None, measures.choice_calibration(margins), heads_std, None)
    ratings = np.array([sample.rating for sample in samples])
    overall, within = measures.pair_accuracies(single, ratings, prompts, seed=seed)
    stds = scores.std(axis=1)
    return Quality(
        measures.spearman(single, ratings, prompts, seed=seed),
        overall,
        within,
        measures.calibration(single, ratings),
        float(stds.mean()) if several else None,
        rank_correlation(stds, np.abs(single - ratings)) if several else None,
    )


def gain_of(samples: Sequence[Any], more: Floats, fewer: Floats, seed: int) -> Estimate:
    """How much the main number rises from a model of fewer samples to one of more.

    Args:
        more, fewer: mean scores of either; for choices the margins. [N]
    """
    prompts = [sample.prompt for sample in samples]
    if isinstance(samples[0], Choice):
        return measures.choice_gain(more, fewer, prompts, seed=seed)
    ratings = np.array([sample.rating for sample in samples])
    return measures.spearman_gain(more, fewer, ratings, prompts, seed=seed)


def agreement_of(table: RatingTable, seed: int, *, pairs: bool) -> Agreement | None:
    """The raters' own agreement, where responses have several ratings, or pairs several choices."""
    if pairs:
        same = measures.choice_agreement(table, seed=seed)
        return None if same is None else Agreement(None, None, same, choice_ceiling(same.value))
    arrays = arrays_of(table)
    half = split_half(arrays.items, arrays.values, seed=seed)
    if half is None:
        return None
    panels = spearman_brown(half)
    return Agreement(half, panels, None, math.sqrt(max(0.0, panels.value)))


def choice_ceiling(same_choice: float) -> float:
    """How many single choices a model can predict at most, given how often two raters agree.

        (1 + sqrt(2 a - 1)) / 2

    Of a pair where a share p prefers one response, two raters choose alike with a = p^2 + (1 - p)^2, and
    the best guess is right with max(p, 1 - p), which is that. Over pairs of different p it is an upper bound,
    since it is concave in a.
    """
    return (1 + math.sqrt(max(0.0, 2 * same_choice - 1))) / 2


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
