"""Built-in losses.

A module each, registered as `losses.NAME` under `entry-points` in pyproject.toml.
"""
