"""The learning rate of each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppokit.config.settings import UpdateSettings


def learning_rate_at(settings: UpdateSettings, step: int, steps: int) -> float:
    """Of a step, from 1: linear warm-up, then constant, or down to 0 after the last step.

    Args:
        settings: the recipe's section `update`.
        steps: of the whole run.
    """
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    done = (step - 1 - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[settings.schedule]
    return settings.learning_rate * factor
