"""Built-in observers.

A module each, registered as `observers.NAME` under `entry-points` in pyproject.toml.
"""
