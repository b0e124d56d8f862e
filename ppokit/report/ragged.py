"""Lists of numbers of different lengths, as Parquet holds them: one row of tokens per response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ragged:
    """Rows of numbers.

    Attributes:
        flat: the numbers of all rows, one row after the other.
        ends: [B + 1], where each row begins and the last one ends.
    """

    flat: Floats
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def row(self, index: int) -> Floats:
        """The numbers of one response."""
        return self.flat[self.ends[index] : self.ends[index + 1]]

    def sums(self, where: Ragged | None = None) -> Floats:
        """[B] sum of each row, of the numbers where `where` is not 0; one that is not finite counts as 0."""
        numbers = np.where(np.isfinite(self.flat), self.flat, 0.0)
        if where is not None and len(where.flat) == len(numbers):
            numbers = np.where(where.flat != 0, numbers, 0.0)
        total = np.concatenate([[0.0], np.cumsum(numbers)])
        return np.asarray(total[self.ends[1:]] - total[self.ends[:-1]])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[B] numbers in each row."""
        return np.diff(self.ends)


def ragged_of(column: Any) -> Ragged:
    """A column of lists of a Parquet file; a missing list is empty, a missing number NaN."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = np.nan_to_num(array.value_lengths().to_numpy(zero_copy_only=False))
    flat = array.flatten()
    if pa.types.is_float16(flat.type):
        flat = flat.cast(pa.float32())
    numbers = flat.cast(pa.float64()) if not pa.types.is_boolean(flat.type) else flat.cast(pa.int8())
    return Ragged(
        np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )
