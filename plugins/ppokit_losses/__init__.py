"""Built-in losses, one a module."""
