"""Case studies that run: real public data, a network trained here, distilled, and packed by the real command.

Each is a module of its own (``python -m examples.wearable``, ``python -m examples.factory``). They need the extra ``all``
and the data of ``docs/data.md``. Nothing imports them but their tests and the benchmark.
"""
