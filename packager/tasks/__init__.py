"""What a model is judged by: one file per kind of task, and ``choose.py``, which decides."""
