"""Advantages, losses, and the update of the weights."""
