"""Many tests at once: one level between blocks of tests; within what shares no resamples it is Holm (``statistics.holm``).

A *block* is what is judged by one null distribution. Between blocks Bonferroni is used: Holm over blocks whose members are
adjusted already does not bound the error of every single test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def over_blocks(blocks: Sequence[Mapping[tuple[str, str], float]]) -> dict[tuple[str, str], float]:
    """Adjusted p-values of all blocks, each already adjusted within itself; by (test, subject)."""
    count = len([block for block in blocks if block])
    return {key: min(1.0, count * p) for block in blocks for key, p in block.items()}
