"""Randomness as a pure function of the seed and the place, so that there is no state to save."""

from __future__ import annotations

import hashlib


def seed_from(*numbers: int) -> int:
    """One 63-bit seed from several numbers; neighbouring numbers give unrelated seeds."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
