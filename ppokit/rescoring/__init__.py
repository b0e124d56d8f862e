"""Saved responses scored anew, without a language model, and what would change."""
