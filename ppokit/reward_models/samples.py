"""People's ratings as samples to fit, to choose by and to test on, with no prompt in two of these parts.

A rating file becomes one sample per item: the mean of its raters' z-scores (`ppokit.ratings.normalise`), with
the weight of a random-effects mean (DerSimonian and Laird 1986, Controlled Clinical Trials 7:177):

    w = 1 / (se^2 + tau^2),    tau^2 = max(0, var(rating) - mean(se^2))

se is the item's standard error. With 1 / se^2 alone, an item whose few raters agreed by chance would outweigh
all others. Differs: tau^2 is by unweighted moments, and of the ratings, not of what the model leaves
unexplained. Weights are scaled to mean 1.

A file of pairs, or of items with several responses, becomes one sample a choice, of weight 1.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ppokit.errors import DataError
from ppokit.messages import listed
from ppokit.ratings.normalise import Normalised, normalise
from ppokit.ratings.records import Pair, RatingTable
from ppokit.ratings.repeats import holds_choices, responses_of_items
from ppokit.ratings.splitting import held_out, same_prompt
from ppokit.ratings.table import pairs_of

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats, Ints

Half = Literal["a", "b"]
FIT, VALIDATION, TEST = "fit", "validation", "test"
_NAMES = {
    "train": FIT, "fit": FIT, "training": FIT,
    "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION,
    "test": TEST, "held_out": TEST, "eval": TEST,
}  # fmt: skip
LEAST = 2  # samples a part
FEW = 30  # to test on


@dataclass(frozen=True)
class Sample:
    """One item.

    Attributes:
        rating: mean z-score of its raters.
        weight: how much it counts, 1 on average.
    """

    prompt: str
    response: str
    rating: float
    weight: float

    @property
    def texts(self) -> tuple[str]:
        return (self.response,)


@dataclass(frozen=True)
class Choice:
    """One choice that one rater made between two responses."""

    prompt: str
    chosen: str
    rejected: str

    @property
    def texts(self) -> tuple[str, str]:
        return self.chosen, self.rejected


@dataclass(frozen=True)
class Parts:
    """What to fit, what to choose by, what to test on; all samples or all choices.

    Attributes:
        table: the ratings of the part `test`, for the raters' own agreement.
        notes: what a person should be told.
    """

    fit: Sequence[Sample] | Sequence[Choice]
    validation: Sequence[Sample] | Sequence[Choice]
    test: Sequence[Sample] | Sequence[Choice]
    table: RatingTable
    notes: list[str]

    @property
    def pairs(self) -> bool:
        """Whether these are choices."""
        return isinstance(self.fit[0], Choice)


def half_of(table: RatingTable, half: Half) -> RatingTable:
    """The ratings of half of the raters: a model of one half is a gold reward model for that of the other.

    Raters are dealt alternately, those with the most ratings first, then by the hash of their names. Rows
    that name no rater could be anybody's, and are in neither half.

    Raises:
        DataError: fewer than two raters are named.
    """
    counts = Counter(row.rater for row in table.rows if row.rater)
    if len(counts) < 2:
        who = f"one rater, {next(iter(counts))!r}" if counts else "no rater"
        raise DataError(f"--half {half}: {table.source} names {who}; expected at least two to deal out.")
    ordered = sorted(counts, key=lambda name: (-counts[name], hashlib.sha256(name.encode()).digest()))
    kept = set(ordered["ab".index(half) :: 2])
    unnamed = len(table.rows) - counts.total()
    left_out = [f"{unnamed:,} rows left out, since they name no rater"] if unnamed else []
    return replace(
        table,
        notes=[*table.notes, *left_out],
        ratings=[row for row in table.ratings if row.rater in kept],
        pairs=[row for row in table.pairs if row.rater in kept],
    )


def parts_of(table: RatingTable, *, share: float, seed: int) -> Parts:
    """Samples in three parts, by the file's split column, or by prompt where it has none.

    A split column names them `train`, `validation` (`val`, `dev`) and `test` (`held_out`, `eval`). What it
    does not name is taken from `train`: a share of its prompts. Without a split column half of the share is
    for the test and half for stopping.

    Args:
        share: of the prompts, between 0 and 1.
        seed: another one draws other prompts.

    Raises:
        DataError: a split has an unknown name, or a part has too few samples.
    """
    pairs, notes = _samples(table)
    prompts = [sample.prompt for _, sample in pairs]
    parts, how = _assigned(table.source, [split for split, _ in pairs], prompts, share, seed)
    notes += how
    taken = {same_prompt(p): part for p, part in zip(prompts, parts, strict=True) if part == VALIDATION}
    taken |= {same_prompt(p): part for p, part in zip(prompts, parts, strict=True) if part == TEST}
    kept: dict[str, list[Sample | Choice]] = {FIT: [], VALIDATION: [], TEST: []}
    leaked = 0
    for (_, sample), part in zip(pairs, parts, strict=True):
        if taken.get(same_prompt(sample.prompt), part) != part:
            leaked += 1
        else:
            kept[part].append(sample)
    if leaked:
        notes.append(f"{leaked:,} samples left out: their prompt stands in a held-out part too")
    for part, samples in kept.items():
        if len(samples) < LEAST:
            raise DataError(
                f"{table.source}: {len(samples)} samples to {_PURPOSE[part]}; expected at least {LEAST}. "
                "Rate more, or change --held-out or the split column."
            )
    if len(kept[TEST]) < FEW:
        notes.append(f"only {len(kept[TEST])} samples to test on: the numbers say little")
    tested = {same_prompt(sample.prompt) for sample in kept[TEST]}
    rows = replace(
        table,
        ratings=[row for row in table.ratings if same_prompt(row.prompt) in tested],
        pairs=[row for row in table.pairs if same_prompt(row.prompt) in tested],
    )
    return Parts(kept[FIT], kept[VALIDATION], kept[TEST], rows, notes)  # type: ignore[arg-type]


_PURPOSE = {FIT: "fit", VALIDATION: "choose by", TEST: "test on"}


def subset(samples: Sequence[Sample] | Sequence[Choice], share: float, seed: int) -> list[Sample | Choice]:
    """The samples of a share of the prompts; a smaller share's are among a larger one's."""
    if share >= 1:
        return list(samples)
    chosen = held_out((sample.prompt for sample in samples), share, seed)
    return [sample for sample in samples if same_prompt(sample.prompt) in chosen]


def responses_of(samples: Sequence[Sample] | Sequence[Choice]) -> list[list[str]]:
    """The responses; or the chosen ones, and the rejected ones."""
    return list(map(list, zip(*(sample.texts for sample in samples), strict=True)))


def grouped(
    samples: Sequence[Sample] | Sequence[Choice],
) -> Ints:
    """A number for each sample's prompt, from 0. [N]"""
    return np.unique([same_prompt(sample.prompt) for sample in samples], return_inverse=True)[1]


def _samples(table: RatingTable) -> tuple[list[tuple[str | None, Sample | Choice]], list[str]]:
    if holds_choices(table):
        pairs: list[Pair] = pairs_of(table)
        if not pairs:
            raise DataError(f"{table.source}: no rater preferred one response of an item; nothing to fit.")
        notes = [] if table.pairs else [_choices_noted(table)]
        return [(pair.split, Choice(pair.prompt, pair.chosen, pair.rejected)) for pair in pairs], notes
    items, notes = normalise(table)
    weights = _weights(items)
    if np.ptp([item.rating for item in items]) == 0:
        raise DataError(f"{table.source}: all responses are rated alike; nothing to fit.")
    return [
        (item.split, Sample(item.prompt, item.response, item.rating, float(weight)))
        for item, weight in zip(items, weights, strict=True)
    ], notes


def _choices_noted(table: RatingTable) -> str:
    """That ratings are read as choices, and what is left out then."""
    items = responses_of_items(table)
    single = sum(len(responses) == 1 for responses in items.values())
    left = f"; {single:,} with a single one left out" if single else ""
    return f"items have several responses each, so choices between these are fitted{left}"


def _weights(items: Sequence[Normalised]) -> Floats:
    """[items], with mean 1; all 1 where no item has two ratings."""
    squares = np.array([item.rating_se or 0.0 for item in items]) ** 2
    if not squares.any():
        return np.ones(len(items))
    tau2 = max(0.0, float(np.var([item.rating for item in items])) - float(squares.mean()))
    total = squares + tau2
    # Where raters differ by chance alone, tau^2 is 0; an item without any error must not reach infinity.
    weights = 1 / np.maximum(total, float(total.mean()) / 10)
    return np.asarray(weights / weights.mean())


def _assigned(
    source: str, splits: list[str | None], prompts: list[str], share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Part of each sample, and how it was chosen."""
    if all(split is None for split in splits):
        different = len({same_prompt(prompt) for prompt in prompts})
        out = _drawn(source, prompts, max(share, 2 / different), seed)  # one prompt for each part, at least
        half = _drawn(source, sorted(out), 0.5, seed + 1)
        parts = [
            FIT if key not in out else TEST if key in half else VALIDATION
            for key in map(same_prompt, prompts)
        ]
        return parts, [f"{len(out):,} prompts held out: half to choose by, half to test on"]
    names = [(split or "").casefold() for split in splits]
    unknown = sorted({split or "" for split in splits if (split or "").casefold() not in _NAMES})
    if unknown:
        names_there = [repr(name) if name else f"nothing ({names.count(''):,} times)" for name in unknown]
        raise DataError(
            f"{source}: the split column holds {listed(names_there)}; expected train, validation or test "
            "everywhere."
        )
    parts = [_NAMES[name] for name in names]
    notes = []
    for part, name in ((VALIDATION, "validation"), (TEST, "test")):
        if part in parts:
            continue
        rest = [prompt for prompt, own in zip(prompts, parts, strict=True) if own == FIT]
        out = _drawn(source, rest, share, seed + len(name))
        parts = [
            part if own == FIT and same_prompt(prompt) in out else own
            for prompt, own in zip(prompts, parts, strict=True)
        ]
        notes.append(f"the split column names no {name}: {len(out):,} prompts taken from train")
    return parts, notes


def _drawn(source: str, prompts: list[str], share: float, seed: int) -> set[str]:
    try:
        return held_out(prompts, share, seed)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
