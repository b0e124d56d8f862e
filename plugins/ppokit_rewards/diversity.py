"""How unlike the other responses to its prompt a response is, from 0 to 1.

    score_i = 1 - mean over j != i of |A_i & A_j| / |A_i | A_j|,   A = set of n-grams of words, in lower case

One less the mean Jaccard similarity. A response of fewer than n words has no n-grams and scores 0; a response
that has no others beside it abstains.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import Field

from ppokit.plugin import CheckContext, Component, Example, Options, RewardOutput, Rollout, hookimpl, ngrams


def _jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Shared elements by all elements; 0 where there is none."""
    shared = len(a & b)
    return shared / whole if (whole := len(a) + len(b) - shared) else 0.0


class Diversity(Options):
    whole_groups = True

    n: int = Field(2, gt=0, description="Words in what is compared: 1 for words, 2 for pairs of neighbours.")

    def score(self, rollout: Rollout) -> RewardOutput:
        groups: dict[int, list[int]] = {}
        for i, group in enumerate(rollout.group_ids.tolist()):
            groups.setdefault(group, []).append(i)
        sets = [frozenset(ngrams(re.findall(r"\w+", text.lower()), self.n)) for text in rollout.responses]
        values: list[float | None] = [None] * len(sets)
        for members in groups.values():
            for i in members:
                shares = [_jaccard(sets[i], sets[j]) for j in members if j != i]
                if shares:
                    values[i] = 1 - sum(shares) / len(shares) if sets[i] else 0.0
        return RewardOutput.from_values(values)


def check(options: Diversity, context: CheckContext) -> Iterable[str]:
    if context.responses_per_prompt == 1:
        yield "compares responses to one prompt; expected rollout.responses_per_prompt of at least 2"


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    same = "We like cats and dogs."
    examples = [Example(("The sun rises in the east.",), (same, same))]
    return [Component("diversity", options=Diversity, check=check, examples=examples)]
