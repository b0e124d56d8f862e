"""One number per item from the ratings of several raters who use the scale differently.

    z = (x - mean_r) / sd_r                rater r's rating on r's own scale
    rating = mean of z over the raters of the item
    se = sd of z over the raters / sqrt(raters)

mean_r and sd_r are over all ratings of r (sd over n, so that a rater of two different ratings gets -1 and 1).
The standard error takes the sample deviation (over n - 1). An item with one rating has none of its own: it
gets the deviation within items, pooled over the file, which is what one more rating would scatter by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppokit.errors import DataError
from ppokit.messages import listed
from ppokit.ratings.arrays import arrays_of, extremes
from ppokit.ratings.records import Rating, RatingTable

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats, Ints

NORMALISED_COLUMNS = ("prompt", "response", "rating", "rating_se", "ratings", "item", "split")


@dataclass(frozen=True)
class Normalised:
    """One item.

    Attributes:
        rating: mean z-score; 0 is what raters give on average, 1 is one standard deviation above.
        rating_se: its standard error, in the same units; None where no item of the file has two ratings.
        ratings: how many raters it is the mean of.
    """

    prompt: str
    response: str
    rating: float
    rating_se: float | None
    ratings: int
    item: str
    split: str | None


def normalise(table: RatingTable) -> tuple[list[Normalised], list[str]]:
    """Items in the order of the file, and notes about raters whose scale is unknown.

    What one rater gave one item more than once counts once, as its mean. A rater who always gave the same
    number says nothing about which response is better, and gets z-scores of 0. Ratings without a rater share
    one scale.

    Raises:
        DataError: the file holds pairs, or an item has several texts or splits.
    """
    if table.pairs:
        raise DataError(f"{table.source} holds pairs, which have no scale to normalise; expected ratings.")
    arrays = arrays_of(table)
    z, flat = z_scores(arrays.raters, arrays.values)
    count = np.bincount(arrays.items)
    mean = np.bincount(arrays.items, z) / count
    squares = np.bincount(arrays.items, (z - mean[arrays.items]) ** 2)
    freedom = int((count - 1).sum())
    pooled = float(np.sqrt(squares.sum() / freedom)) if freedom else None
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(squares / (count - 1) / count)
    firsts: dict[str, Rating] = {}
    for rating in table.ratings:
        first = firsts.setdefault(rating.item, rating)
        for name, one, other in (
            ("text", (first.prompt, first.response), (rating.prompt, rating.response)),
            ("split", first.split, rating.split),
        ):
            if one != other:
                raise DataError(
                    f"{table.source}: rows {first.row} and {rating.row} share the item {first.item!r} but "
                    f"not the {name}; expected one response per item. Correct the rows, or name another item "
                    "column."
                )
    normalised_items = [
        Normalised(
            prompt=first.prompt,
            response=first.response,
            rating=float(mean[i]),
            rating_se=float(errors[i]) if count[i] > 1 else pooled,
            ratings=int(count[i]),
            item=first.item,
            split=first.split,
        )
        for i, first in enumerate(firsts.values())
    ]
    names = [arrays.rater_names[r] if r >= 0 else "(no rater)" for r in flat]
    notes = [f"{listed(map(repr, names))} always gave the same number: z-scores of 0"] if names else []
    return normalised_items, notes


def z_scores(raters: Ints, values: Floats) -> tuple[Floats, list[int]]:
    """Ratings on each rater's own scale, and the raters who have none, since their ratings do not vary.

    Args:
        raters: whose each rating is; any whole numbers. [N]
        values: the rating. [N]

    Returns:
        [N], with mean 0 and variance 1 over each rater's ratings, or all 0.
    """
    names, codes = np.unique(raters, return_inverse=True)
    count = np.bincount(codes)
    centred = values - (np.bincount(codes, values) / count)[codes]
    std = np.sqrt(np.bincount(codes, centred**2) / count)
    low, high = extremes(codes, values)
    flat = low == high
    z = np.where(flat[codes], 0.0, centred / np.where(flat, 1.0, std)[codes])
    return z, [int(name) for name in names[flat]]
