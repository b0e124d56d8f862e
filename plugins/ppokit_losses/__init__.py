"""Built-in losses, one per module."""
