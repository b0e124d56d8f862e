"""The page of a run: what its folder holds as plain data, and what a person should see of it."""
