"""What a reward provider's object says of how its calls are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ppokit.errors import PluginError

Units = list[list[int]]
"""Responses by their index, those together that are not parted."""


class CallSizes(NamedTuple):
    """
    Attributes:
        whole_groups: whether each call has all responses to its prompts.
        responses_per_call: at most, but for a whole group; None for any number.
    """

    whole_groups: bool = False
    responses_per_call: int | None = None

    @classmethod
    def of(cls, provider: object, where: str, *, one_at_a_time: bool = False) -> CallSizes:
        """Read from the provider's attributes of the same names.

        Args:
            one_at_a_time: whether it is asked for a response at a time, where neither would do anything.

        Raises:
            PluginError: an attribute of another type, or one that would do nothing.
        """
        groups = getattr(provider, "whole_groups", False)
        most = getattr(provider, "responses_per_call", None)
        if not isinstance(groups, bool):
            raise PluginError(f"{where} has whole_groups {groups!r}; expected True or False.")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise PluginError(
                f"{where} has responses_per_call {most!r}; expected None or an integer of at least 1."
            )
        if one_at_a_time and (groups or most is not None):
            actual = "whole_groups True" if groups else f"responses_per_call {most}"
            raise PluginError(
                f"{where} has {actual}, and is asked for one response at a time; leave it out, or score "
                "batches: score(rollout) in place of score_one(sample), responses in place of response."
            )
        return cls(groups, most)

    def cut(self, units: Units, at_once: int = 1) -> list[list[int]]:
        """Responses of each call: as many in each as it takes, then parted for calls at once.

        Args:
            units: responses that stay together.
            at_once: calls among which they are divided, where the sizes alone make fewer.
        """
        calls: list[Units] = []
        room = 0
        for unit in units:
            room -= len(unit)
            if not calls or (self.responses_per_call is not None and room < 0):
                calls.append([])
                room = (self.responses_per_call or 0) - len(unit)
            calls[-1].append(unit)
        parts = [1] * len(calls)
        for _ in range(at_once - len(calls)):
            whole = [len(c) / n if n < len(c) else 0.0 for c, n in zip(calls, parts, strict=True)]
            if not any(whole):
                break
            parts[whole.index(max(whole))] += 1
        return [
            [index for unit in part for index in unit]
            for call, count in zip(calls, parts, strict=True)
            for part in _divided(call, count)
        ]


def _divided(units: Units, count: int) -> list[Units]:
    """As many parts, of as many units each as can be."""
    ends = [n * len(units) // count for n in range(count + 1)]
    return [units[start:end] for start, end in pairwise(ends)]
