"""What a person should look at in a step that was taken all the same."""

from __future__ import annotations

from ppokit.plugin.types import Rewards


def step_warnings(rewards: Rewards) -> list[str]:
    """One sentence per warning, without its full stop."""
    if bool(rewards.scored.any()):
        return []
    return [
        "no response of this step has a reward, so nothing was learnt from it: the recipe's rewards "
        "abstained from, or failed for, every one"
    ]
