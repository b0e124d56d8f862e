"""What a person should hear of the rewards: why responses failed, and why nothing is learned from them."""

from __future__ import annotations

from collections.abc import Iterable

from ppokit.messages import listed
from ppokit.plugin.types import Rewards, Rollout
from ppokit.rewards.outcomes import causes_of

_STEPS = 3
_NOTHING_SCORED = (
    "no response of this step has a reward, so nothing was learned from it: the recipe's rewards "
    "abstained from, or failed for, every one"
)


class RewardWatch:
    """Looks at the rewards of one step after another."""

    def __init__(self) -> None:
        self._cause, self._steps = "", 0

    def warnings(self, rewards: Rewards) -> list[str]:
        """Sentences without their full stop: failures of this step, and one cause that lasts, said once."""
        texts = list(failures(rewards))
        if not bool(rewards.scored.any()):
            texts.append(_NOTHING_SCORED)
        cause, clause = _why_equal(rewards)
        self._steps = self._steps + 1 if cause and cause == self._cause else int(bool(cause))
        self._cause = cause
        if self._steps == _STEPS:
            texts.append(
                f"{clause}, for {_STEPS} steps now: where all rewards are equal there is no better and worse "
                "to learn from"
            )
        return texts


def failures(rewards: Rewards) -> Iterable[str]:
    """A sentence per reward that failed, with its causes."""
    for name, outcomes in rewards.outcomes.items():
        if failed := outcomes.count("failed"):
            causes = causes_of(rewards.reasons.get(name, ()))
            why = "; ".join(causes) if causes else "it says nothing of why"
            yield f"the reward {name!r} failed for {failed} of {len(outcomes)} responses: {why}"


def abstentions(rewards: Rewards, rollout: Rollout) -> Iterable[str]:
    """A sentence per reward that abstained from responses that there are."""
    answered = [i for i, outcome in enumerate(rollout.outcomes) if outcome != "failed"]
    for name, outcomes in rewards.outcomes.items():
        if count := sum(outcomes[i] == "abstained" for i in answered):
            yield f"the reward {name!r} abstained from {count} of {len(answered)} responses"


def _why_equal(rewards: Rewards) -> tuple[str, str]:
    """What all rewards have in common, if anything: the cause, whatever the number, and a clause with it."""
    abstained = [name for name, of in rewards.outcomes.items() if of and set(of) == {"abstained"}]
    if not bool(rewards.scored.any()):
        clause = f"{listed(map(repr, abstained))} abstained from every response" if abstained else ""
        return clause, clause
    scores = rewards.scores[rewards.scored]
    if len(scores) < 2 or bool((scores != scores[0]).any()) or bool(_tokens_differ(rewards)):
        return "", ""
    own = ", ".join(
        f"{name!r} {_common(of[of.isfinite()].tolist())}" for name, of in rewards.breakdown.items()
    )
    return "equal", f"every response has the same reward, {float(scores[0]):g} ({own})"


def _tokens_differ(rewards: Rewards) -> bool:
    whole = rewards.token_rewards.sum(dim=1)[rewards.scored]
    return bool((whole - whole[0]).abs().max() > 1e-6)


def _common(scores: list[float]) -> str:
    if not scores:
        return "scored nothing"
    if min(scores) == max(scores):
        return f"scored {scores[0]:g} everywhere"
    return "differs, and does not count"
