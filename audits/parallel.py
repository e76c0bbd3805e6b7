"""Independent work side by side, one job for each core: torch, the runtime and subprocesses let other threads run.

Every job uses one thread of torch and has its own seeds, so results do not depend on how many run at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_MOST = 8  # each holds its images and their gradients


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def run_all(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """The results in the order of the jobs; the first error ends the call after the jobs that had begun.

    Raises:
        Exception: what a job raised.
    """
    workers = min(_MOST, cores(), len(jobs))
    if workers <= 1:
        return [job() for job in jobs]
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
