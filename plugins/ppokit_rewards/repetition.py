"""Penalty for what a response says again: from -1 to 0.

    score = -(1 - different n-grams / n-grams)

Welleck et al. 2019, arXiv:1908.04319, section 4.2 (seq-rep-n). Differs: n-grams of words, characters or
tokens, as the recipe says; a response of fewer than n of them repeats nothing and scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from ppokit.plugin import Component, Options, RewardOutput, Rollout, distinct_ngrams, hookimpl


def repetition(units: Sequence[Any], n: int) -> float:
    """Share of the n-grams that came before, as a score."""
    share = distinct_ngrams([units], n)
    return 0.0 if share is None else share - 1


class Repetition(Options):
    n: int = Field(3, gt=0, description="Units in what is compared.")
    unit: Literal["words", "characters", "tokens"] = Field(
        "words",
        description="words, separated by white space, in lower case; characters, as for scripts without "
        "spaces; or tokens of the policy.",
    )

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([repetition(units, self.n) for units in self._units(rollout)])

    def _units(self, rollout: Rollout) -> list[Sequence[Any]]:
        if self.unit == "tokens":
            pairs = zip(rollout.response_ids, rollout.loss_mask, strict=True)
            return [ids[mask].tolist() for ids, mask in pairs]
        if self.unit == "words":
            return [text.lower().split() for text in rollout.responses]
        return list(rollout.responses)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    waivers = {"names_examples": "it is a penalty: a response that says nothing repeats nothing"}
    return [Component("repetition", options=Repetition, waivers=waivers)]
