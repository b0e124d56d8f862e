"""Closeness of the response's length to a target, from -1 to 1, in tokens, words or characters.

    score = max(-1, 1 - max(0, |n - target| - tolerance) / target)

1 on target and within the tolerance, falling on a straight line to 0 where the response is off by the
whole target (empty, or twice as long) and to -1 where it is off by two (three times as long). No
paper: the plainest function with a slope almost everywhere, so that PPO sees which way is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ppokit.plugin import Component, Example, Options, RewardOutput, Rollout, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


def length(n: Tensor, *, target: int, tolerance: int = 0) -> Tensor:
    """Score of each response.

    Args:
        n: [B], how long each response is.
        target: the length that scores 1.
        tolerance: so far from the target, in either direction, still scores 1.

    Returns: [B] float32.
    """
    off = ((n - target).abs() - tolerance).clamp(min=0)
    return (1 - off.float() / target).clamp(min=-1)


class Length(Options):
    target: int = Field(gt=0, description="The length that scores 1.")
    tolerance: int = Field(
        0, ge=0, description="So far from the target, in either direction, still scores 1."
    )
    unit: Literal["tokens", "words", "characters"] = Field(
        "tokens",
        description="What is counted: tokens of the policy, the end-of-sequence token included; "
        "words, separated by white space; or characters.",
    )

    def score(self, rollout: Rollout) -> RewardOutput:
        lengths = self._lengths(rollout)
        return RewardOutput.of_scores(length(lengths, target=self.target, tolerance=self.tolerance))

    def _lengths(self, rollout: Rollout) -> Tensor:
        if self.unit == "tokens":
            return rollout.lengths
        words = self.unit == "words"
        counts = [len(text.split()) if words else len(text) for text in rollout.responses]
        return rollout.lengths.new_tensor(counts)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    examples = [
        Example(
            ("One two three four.", "One two three."),
            ("One.", "One two three four five six seven eight nine."),
            options={"target": 4, "unit": "words"},
        )
    ]
    return [Component("length", options=Length, examples=examples)]
