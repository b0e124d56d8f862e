"""From a YAML recipe to checked settings and chosen components."""
