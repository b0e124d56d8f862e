"""Calls of reward providers of every shape: batched or a response at a time, functions or coroutines."""

from __future__ import annotations

import inspect
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from ppokit.config.components import BuiltComponent
from ppokit.plugin.types import Rewards, Rollout
from ppokit.rewards.call_sizes import CallSizes
from ppokit.testing.fakes import OneProcess

if TYPE_CHECKING:
    from ppokit.rewards.event_loop import EventLoop


@cache
def event_loop() -> EventLoop:
    """The loop of this process, as a run has one: a client that a provider opens lives on it."""
    from ppokit.rewards.event_loop import EventLoop

    return EventLoop()


def run(returned: Any) -> Any:
    """What a call returned, awaited where it is a coroutine."""
    return event_loop().run(returned) if inspect.iscoroutine(returned) else returned


def raw_score(built: BuiltComponent, rollout: Rollout) -> Any:
    """What the provider returns of a rollout itself, not of a copy, and unchecked."""
    from ppokit.plugin.scoring import RewardContext
    from ppokit.rewards.attempts import sample_of, score_method, takes_context

    method, one_at_a_time = score_method(built.instance, built.where)
    given = [sample_of(rollout.select([i])) for i in range(len(rollout))] if one_at_a_time else [rollout]
    more = (RewardContext(reward=built.name),) if takes_context(method, built.where) else ()
    returned = [run(method(each, *more)) for each in given]
    return returned if one_at_a_time else returned[0]


def whole_groups(built: BuiltComponent) -> bool:
    """Whether the provider wants all responses to a prompt in one call."""
    return CallSizes.of(built.instance, built.where).whole_groups


def rewards(built: BuiltComponent, rollout: Rollout) -> Rewards:
    """A provider's rewards of a rollout, asked as the core asks it.

    Raises:
        PpokitError: it failed for a response, or broke its contract.
    """
    from ppokit.rewards.scorer import Scorer

    processes: Any = OneProcess()
    return Scorer([built], processes, 0.0, loop=event_loop()).score(rollout)


def score_of(built: BuiltComponent, rollout: Rollout) -> list[float | None]:
    """A reward's whole score of each response; None where it gave none."""
    (scores,) = rewards(built, rollout).breakdown.values()
    return [None if math.isnan(score) else score for score in scores.tolist()]
