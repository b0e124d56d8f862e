"""Built-in evaluators: they measure the policy and train nothing.

A module each, registered as `evaluators.NAME` under `entry-points` in pyproject.toml.
"""
