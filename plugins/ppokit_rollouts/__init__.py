"""Built-in rollout engines.

A module each, registered as `rollout.NAME` under `entry-points` in pyproject.toml.
"""
