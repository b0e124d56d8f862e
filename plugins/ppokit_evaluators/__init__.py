"""Built-in evaluators: what is measured of the policy during a run, without training on it."""
