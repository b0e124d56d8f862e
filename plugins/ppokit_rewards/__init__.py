"""Built-in reward providers.

A module each, registered as `rewards.NAME` under `entry-points` in pyproject.toml.
"""
