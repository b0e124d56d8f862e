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
        """[B] sum of each row, of the numbers where `where` is not 0; one that is not finite counts as 0.

        Args:
            where: rows as long as these; those that are missing here may stand there.
        """
        numbers = np.where(np.isfinite(self.flat), self.flat, 0.0)
        if where is not None:
            here = np.repeat(self.lengths > 0, where.lengths)
            if here.sum() == len(numbers):
                numbers = np.where(where.flat[here] != 0, numbers, 0.0)
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
    flat = array.flatten().to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(np.asarray(flat, dtype=np.float64), ends)
