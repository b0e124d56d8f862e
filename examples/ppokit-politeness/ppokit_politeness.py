"""A reward for polite words: the share of a list of words that the response uses."""

from __future__ import annotations

from ppokit.plugin import Component, Example, Options, RewardOutput, Rollout, hookimpl


class Politeness(Options):
    """Its fields are the keys beside `use: politeness`."""

    words: tuple[str, ...] = ("please", "thank", "sorry")

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([self.politeness(text) for text in rollout.responses])

    def politeness(self, text: str) -> float | None:
        if not text.strip():
            return None  # an empty response: abstain
        return sum(word in text.lower() for word in self.words) / len(self.words)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    examples = [Example(better=("Thank you!", "Sorry, no."), worse=("No.", "What do you want?"))]
    return [Component("politeness", options=Politeness, examples=examples)]
