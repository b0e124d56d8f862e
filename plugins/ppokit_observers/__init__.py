"""Built-in observers, one a module."""
