"""What a file of people's ratings holds, and which of its columns holds what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from ppokit.data.formats import BadRow


class RatingColumns(BaseModel):
    """Which column of a file holds what; also a section of a recipe.

    Attributes:
        prompt, response, rating: columns that a file of ratings must have.
        rater, split: None reads the column of that name where the file has it.
        item: what was rated. None reads the column `item` where the file has it and it does not merely number
            the rows; otherwise each distinct prompt and response is an item. An item with two responses, in
            two rows, is a choice between them.
        chosen, rejected: a file with these two and no rating column holds pairs.
        aspects: further columns of numbers, such as `fluency`; their cells may be empty.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = "prompt"
    response: str = "response"
    rating: str = "rating"
    rater: str | None = None
    item: str | None = None
    chosen: str = "chosen"
    rejected: str = "rejected"
    split: str | None = None
    aspects: tuple[str, ...] = ()

    @property
    def known(self) -> set[str]:
        """The columns by which a file of ratings or pairs is recognised."""
        return {self.prompt, self.response, self.rating, self.chosen, self.rejected}


@dataclass(frozen=True, slots=True)
class Rating:
    """One person's rating of one response.

    Attributes:
        row: number in the file, see `BadRow`.
        rating: finite, on the file's own scale.
        rater: who rated; empty where the file does not say.
        item: the item column's text, else a digest of prompt and response that is the same in every file.
        split: such as `train`; None where the file does not say.
        aspects: further numbers by column; None for an empty cell.
    """

    row: int
    prompt: str
    response: str
    rating: float
    rater: str
    item: str
    split: str | None
    aspects: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Pair:
    """One person's choice between two responses; fields as in `Rating`. The digest leaves out their order."""

    row: int
    prompt: str
    chosen: str
    rejected: str
    rater: str
    item: str
    split: str | None


@dataclass(frozen=True)
class RatingTable:
    """What a file says: `ratings` or `pairs`, never both.

    Attributes:
        source: the file, as it was named.
        bad_rows: rows left out under `on_bad_row="skip"`.
        notes: how the file was read, for a person to check; show them.
    """

    source: str
    ratings: list[Rating]
    pairs: list[Pair]
    bad_rows: list[BadRow]
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Rating] | list[Pair]:
        """The ratings, or the pairs."""
        return self.ratings or self.pairs
