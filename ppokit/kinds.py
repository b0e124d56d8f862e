"""The kinds of components, and what announces them; light, so that a list of plugins imports nothing else."""

from __future__ import annotations

PROJECT = "ppokit"
"""The entry points' group, and pluggy's project."""

HOOK_BY_KIND = {
    "rewards": "ppokit_reward_providers",
    "advantages": "ppokit_advantage_estimators",
    "losses": "ppokit_losses",
    "rollout": "ppokit_rollout_engines",
    "evaluators": "ppokit_evaluators",
    "observers": "ppokit_observers",
}
"""A kind is the recipe's key under which its components are chosen (evaluators: within `evaluation`)."""
