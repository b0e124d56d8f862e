"""Built-in reward providers, one per module."""
