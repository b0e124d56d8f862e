"""What a reward provider's object says of how its calls are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ppokit.errors import PluginError


class CallSizes(NamedTuple):
    """
    Attributes:
        whole_groups: whether each call has all responses to its prompts.
        responses_per_call: at most, but for a whole group; None for any number.
    """

    whole_groups: bool = False
    responses_per_call: int | None = None

    @classmethod
    def of(cls, provider: object, where: str) -> CallSizes:
        """Read from the provider's attributes of the same names.

        Raises:
            PluginError: an attribute of another type.
        """
        groups = getattr(provider, "whole_groups", False)
        most = getattr(provider, "responses_per_call", None)
        if not isinstance(groups, bool):
            raise PluginError(f"{where} has whole_groups {groups!r}; expected True or False.")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise PluginError(
                f"{where} has responses_per_call {most!r}; expected None or an integer of at least 1."
            )
        return cls(groups, most)

    def cut(self, units: list[list[int]], concurrency: int) -> list[list[int]]:
        """Responses of each call.

        Args:
            units: responses that stay together.
            concurrency: calls at a time, among which they are divided.
        """
        if not units:
            return []
        count = concurrency
        if self.responses_per_call is not None:
            count = max(count, -(-sum(map(len, units)) // self.responses_per_call))
        count = min(count, len(units))
        cuts = [n * len(units) // count for n in range(count + 1)]
        return [[index for unit in units[start:end] for index in unit] for start, end in pairwise(cuts)]
