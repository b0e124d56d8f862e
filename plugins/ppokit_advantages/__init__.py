"""Built-in advantage estimators, one a module."""
