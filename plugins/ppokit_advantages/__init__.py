"""Built-in advantage estimators.

A module each, registered as `advantages.NAME` under `entry-points` in pyproject.toml.
"""
