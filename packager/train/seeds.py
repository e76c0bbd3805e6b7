"""Fixed seeds and a fixed number of threads around everything that trains, and the caller's own state put back afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def reproducible(seed: int, *, threads: int = 1) -> Iterator[None]:
    """Fixed seeds of torch, numpy and random, and deterministic kernels.

    Also switches off torch's short cut through its own transformer layers, which reads inner weights without calling the
    inner layers, so that a layer put in their place would be passed by.

    Args:
        seed: in [0, 2**32).
        threads: of torch; the order of sums, and so the last bits of results, depend on it.
    """
    import torch

    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    short_cut = torch.backends.mha.get_fastpath_enabled()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # what somebody's forward function may draw from
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(strict)
            torch.backends.mha.set_fastpath_enabled(short_cut)
