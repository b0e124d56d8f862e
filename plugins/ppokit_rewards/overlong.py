"""Soft punishment of long responses: 0 up to a margin before the limit, then down to -1 at the limit.

    score = -clip(n - (limit - buffer), 0, buffer) / buffer

Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13. Differs: none; the paper's factor is the recipe's `weight`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import (
    CheckContext,
    Component,
    Example,
    Options,
    RewardOutput,
    Rollout,
    hookimpl,
)

if TYPE_CHECKING:
    from torch import Tensor


def overlong(n: Tensor, *, limit: int, buffer: int) -> Tensor:
    """Score of each response.

    Args:
        n: [B], tokens of each response.
        limit: tokens from which on the score is -1.
        buffer: tokens before the limit over which the score falls.

    Returns: [B] float32, from -1 to 0.
    """
    return -(n.float() - (limit - buffer)).clamp(min=0, max=buffer) / buffer


class Overlong(Options):
    limit: int = Field(
        gt=0, description="Tokens from which on the score is -1, such as rollout.max_new_tokens."
    )
    buffer: int = Field(gt=0, description="Tokens before the limit over which the score falls from 0.")

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.of_scores(overlong(rollout.lengths, limit=self.limit, buffer=self.buffer))


def _check(options: Overlong, context: CheckContext) -> Iterator[str]:
    if options.buffer > options.limit:
        yield f"got buffer {options.buffer} and limit {options.limit}; expected a buffer within the limit"


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    return [
        Component(
            "overlong",
            options=Overlong,
            check=_check,
            examples=[Example(("Short.",), ("word " * 20,), options={"limit": 20, "buffer": 10})],
            waivers={
                "nothing_wins": "it only takes from what other rewards give, and nothing is never too long"
            },
        )
    ]
