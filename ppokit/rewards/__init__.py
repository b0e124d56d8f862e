"""From rollouts to rewards: every provider, its outcomes, scaling."""
