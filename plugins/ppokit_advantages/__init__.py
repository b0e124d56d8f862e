"""Built-in advantage estimators, one per module."""
