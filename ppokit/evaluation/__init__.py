"""Measuring the policy without training on what is measured."""
