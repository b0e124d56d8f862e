"""Samples and choices that follow a planted rule, for small models to learn."""

from __future__ import annotations

import numpy as np

from ppokit.reward_models.samples import Choice, Sample


def samples_of(count, seed=0) -> list[Sample]:
    """The planted rule: 1 where the response is one of the first four letters, else -1."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        letter, *prompt = rng.choice(list("abcdefgh"), rng.integers(2, 8))
        samples.append(Sample(f"{i} {' '.join(prompt)}", str(letter), 1.0 if letter in "abcd" else -1.0, 1.0))
    return samples


def choices_of(count, seed=0) -> list[Choice]:
    left, right = samples_of(count, seed), samples_of(count, seed + 1)
    return [
        Choice(a.prompt, *((a.response, b.response) if a.rating > b.rating else (b.response, a.response)))
        for a, b in zip(left, right, strict=True)
        if a.rating != b.rating
    ]
