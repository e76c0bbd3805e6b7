"""Weights that take few distinct values: which tensors, which values, and which one for each weight. Used by ``codebook.py``."""
