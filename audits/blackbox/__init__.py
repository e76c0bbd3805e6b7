"""Attacks that see nothing but the outputs of the shipped bytes: scores, or the winning class alone."""
