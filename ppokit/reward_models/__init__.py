"""Reward models fitted to people's ratings."""
