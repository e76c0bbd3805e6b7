"""Techniques that train a torch module: pruning with recovery, distillation, training with quantisation in the loop.

Each takes ``Compressed.module`` and the rows of the part ``train``, changes a copy of the module, trains it with the one
loop of ``loop.py``, and exports it to the same FP32 normal form that every model begins in (``finish.py``).

    need.py      what must be there before any work: a module, rows, enough of them
    rows.py      a part of the data as tensors in the module's order
    objective.py what is minimised: the task's own loss, the outputs of a teacher, both
    loop.py      the loop
"""
