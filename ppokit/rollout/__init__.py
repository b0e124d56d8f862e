"""From prompts to rollouts."""
