"""Batches of samples of about the same length, so that little of a forward pass is padding.

token_batches     longest first, as many as fit a budget of tokens: policy, reference, values, training
length_batches    longest first, a fixed number per batch: reward models and encoders, whose texts are short
length_groups     longest first, a new batch where a shorter text makes one worth it: the sampler's prompts
shuffled_batches  in random order, a fixed number per batch: fitting, whose order must not follow length
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_SORTED_TOGETHER = 16  # batches: little padding, and still a mixed order


def token_batches(
    indices: Sequence[int], lengths: Sequence[int], budget: int, *, padded: bool = True
) -> list[list[int]]:
    """Samples in batches that hold at most `budget` tokens, padding included; a longer sample stands alone.

    Longest first, so that memory peaks at once.

    Args:
        indices: the samples to batch; lengths: tokens of all samples.
        padded: whether each sample takes up as many tokens as the longest of its batch.
    """
    batches: list[list[int]] = []
    tokens = 0  # of the last batch
    for index in longest_first(indices, lengths):
        size = lengths[batches[-1][0] if padded and batches else index]
        if batches and tokens + size <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            tokens, size = 0, lengths[index]
        tokens += size
    return batches


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every sample in batches of `batch_size`, longest first."""
    order = longest_first(range(len(lengths)), lengths)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def length_groups(lengths: Sequence[int], *, least_tokens: int, most: int) -> list[list[int]]:
    """Every sample in a few batches of like length, longest first.

    Args:
        least_tokens: of a batch, padding included, the last one excepted.
        most: batches that the samples would make if all were as long as the longest.
    """
    longest = max(lengths, default=0)
    enough = max(least_tokens, longest * len(lengths) / most)
    groups: list[list[int]] = []
    for index in longest_first(range(len(lengths)), lengths):
        last = groups[-1] if groups else None
        if last is None or (len(last) * lengths[last[0]] >= enough and lengths[index] < lengths[last[0]]):
            groups.append([index])
        else:
            last.append(index)
    return groups


def shuffled_batches(
    lengths: Sequence[int], batch_size: int, generator: np.random.Generator
) -> Iterator[list[int]]:
    """Every sample in random batches of `batch_size` samples of about the same length, in random order."""
    order = generator.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * _SORTED_TOGETHER):
        group = sorted(
            order[start : start + batch_size * _SORTED_TOGETHER].tolist(), key=lambda i: lengths[i]
        )
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    for index in generator.permutation(len(batches)):
        yield batches[index]


def longest_first(indices: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Samples by falling length; equal ones stay in their order."""
    return sorted(indices, key=lambda i: -lengths[i])
