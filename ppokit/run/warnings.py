"""What is wrong with a step that was taken all the same, for the observers to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.plugin.types import Rewards
from ppokit.run.run_dir import RunDir

if TYPE_CHECKING:
    from ppokit.evaluation.canary import Canary


def step_warnings(
    rewards: Rewards, metrics: dict[str, float], canary: Canary | None, run_dir: RunDir
) -> list[str]:
    """One sentence each: nothing scored, or what the canary says, which `canary/warning` then notes.

    Args:
        metrics: the step's; `canary/warning` is set in them where the canary has measured.
        run_dir: of the run, whose first measure of the canary later ones are compared with.
    """
    found = []
    if not bool(rewards.scored.any()):
        found.append(
            "no response of this step has a reward, so nothing was learnt from it: the recipe's rewards "
            "abstained from, or failed for, every one"
        )
    if canary is not None and "canary/scored" in metrics:
        first = next((line for line in run_dir.read_metrics() if "canary/scored" in line), metrics)
        warning = canary.warning(first, metrics)
        metrics["canary/warning"] = float(warning is not None)
        found += [warning] if warning is not None else []
    return found
