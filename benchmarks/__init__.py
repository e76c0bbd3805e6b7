"""Side-by-side runs and measurements; results in ``benchmarks/results``, which git ignores."""
