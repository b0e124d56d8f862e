"""Which items to rate, where there are more than people have time for."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ppokit.errors import DataError
from ppokit.ratings.page.items import Item

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from scipy.sparse import csr_array

    ScoreStd = Callable[[Sequence[str], Sequence[str]], ArrayLike]

Select = Literal["random", "uncertain", "diverse"]
FEATURES = 1 << 16
_WORD = re.compile(r"\w+|[^\w\s]")


def choose(
    items: Sequence[Item], count: int | None, how: Select, seed: int, score_std: ScoreStd | None = None
) -> list[Item]:
    """Some of the items, in an order shuffled by the seed.

    Args:
        count: how many; None for all.
        how: `random`; `diverse`, see `farthest`; or `uncertain`, those whose scores have the largest
            standard deviation. A pair's is the root of the sum of squares of its two.
        score_std: prompts and responses to the standard deviation of each one's score, [N]; for `uncertain`.

    Raises:
        DataError: `uncertain` without `score_std`.
    """
    shuffled = sorted(items, key=lambda item: hashlib.sha256(f"{seed} {item.id}".encode()).digest())
    if count is None or count >= len(shuffled) or how == "random":
        return shuffled[:count]
    if how == "diverse":
        indices = farthest(word_vectors([" ".join((i.prompt, *i.responses)) for i in shuffled]), count)
    elif score_std is None:
        raise DataError("uncertain items need a reward model that says how far its heads lie apart.")
    else:
        flat = [(index, response) for index, item in enumerate(shuffled) for response in item.responses]
        stds = np.asarray(score_std([shuffled[p].prompt for p, _ in flat], [r for _, r in flat]), float)
        squares = np.bincount([index for index, _ in flat], stds**2)
        indices = np.argsort(-squares, kind="stable")[:count].tolist()
    chosen = [shuffled[index] for index in indices]
    random.Random(f"{seed} order").shuffle(chosen)
    return chosen


def farthest(vectors: csr_array, count: int) -> list[int]:
    """Indices of `count` rows that lie far apart: the first, then each time the one farthest from all chosen.

    Greedy k-centre: no row is more than twice as far from a chosen one as in the best choice (Gonzalez 1985,
    Clustering to minimize the maximum intercluster distance).

    Args:
        vectors: rows of length 1, or 0. [N, FEATURES]
    """
    chosen = [0]
    nearest = np.full(vectors.shape[0], -np.inf)  # cosine to the nearest chosen row, [N]
    while len(chosen) < count:
        row = vectors[[chosen[-1]]].toarray()[0]
        nearest = np.maximum(nearest, vectors @ row)
        nearest[chosen[-1]] = np.inf
        chosen.append(int(np.argmin(nearest)))
    return chosen


def word_vectors(texts: Sequence[str]) -> csr_array:
    """Word counts, damped and weighted by rarity (TF-IDF), hashed to columns; rows of length 1.

        (1 + log tf) log((1 + N) / (1 + df))

    Hashing (Weinberger et al. 2009, arXiv:0902.2206) without signs: two words that share a column are rare.

    Returns:
        [N, FEATURES]
    """
    from scipy.sparse import csr_array

    columns: list[int] = []
    values: list[float] = []
    ends = [0]
    known: dict[str, int] = {}
    for text in texts:
        counts = Counter(_WORD.findall(text.casefold()))
        for word, count in counts.items():
            if word not in known:
                known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
            columns.append(known[word] % FEATURES)
            values.append(1 + np.log(count))
        ends.append(len(columns))
    vectors = csr_array((values, columns, ends), shape=(len(texts), FEATURES))
    vectors.sum_duplicates()
    texts_with_word = np.bincount(vectors.indices, minlength=FEATURES)
    vectors.data *= np.log((1 + len(texts)) / (1 + texts_with_word))[vectors.indices]
    lengths = np.sqrt(vectors.multiply(vectors).sum(axis=1))
    vectors.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(vectors.indptr))
    return vectors
