"""Many tests at once: Holm within what shares no resamples, and one level between blocks of tests.

A *block* is what is judged by one null distribution. Between blocks Bonferroni is used: Holm over blocks whose members are
adjusted already does not bound the error of every single test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order.

    Source: Holm 1979, step-down.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted


def over_blocks(blocks: Sequence[Mapping[tuple[str, str], float]]) -> dict[tuple[str, str], float]:
    """Adjusted p-values of all blocks, each already adjusted within itself; by (test, subject)."""
    count = len([block for block in blocks if block])
    return {key: min(1.0, count * p) for block in blocks for key, p in block.items()}
