"""The whole chain on one machine, and then seven attacks on it. Composed by ``sealift demo``."""
