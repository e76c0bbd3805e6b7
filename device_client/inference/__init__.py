"""Inference: from bytes hashed at load to outputs, through the one session factory."""
