"""The sections of benchmarks/gpu/prove.py and their seconds, in the order of what matters most.

The seconds of a part's sections are more than the part has: few of them take theirs, and `--only` runs those
that were not begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from against_trl import grpo, trl_grpo
from measures import ceilings, gpu_tests, memory
from speed import largest_batch, published, sampling, step_of

if TYPE_CHECKING:
    from prove import Section

PARTS: dict[int, list[Section]] = {
    1: [("ceilings", 30.0, ceilings), ("gpu_tests", 230.0, gpu_tests), ("memory", 75.0, memory)],
    2: [
        ("ceilings", 20.0, ceilings),
        ("step 1.5B", 75.0, step_of("1.5B")),
        ("step 7B", 90.0, step_of("7B")),
        ("grpo", 50.0, grpo),
        ("trl_grpo", 60.0, trl_grpo),
        ("update Qwen3-0.6B", 35.0, published("Qwen3-0.6B")),
        ("update Qwen3-4B", 45.0, published("Qwen3-4B")),
        ("sampling", 60.0, sampling),
        ("largest_batch", 60.0, largest_batch),
        ("step 0.5B", 45.0, step_of("0.5B")),
    ],
}
