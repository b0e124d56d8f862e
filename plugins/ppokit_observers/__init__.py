"""Built-in observers, one per module."""
