"""Built-in reward providers, one a module."""
