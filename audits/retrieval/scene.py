"""What every attack of the retrieval tests shares: the drawn records, the input range, the common start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audits.data import AuditData, Floats
from audits.family import Bench
from audits.fit import InputRange, balanced_pools, check_fit, class_count, input_range
from audits.instance_gap import Pools
from audits.policy import Policy


@dataclass(frozen=True)
class Scene:
    """Shared inputs of all attacks.

    Attributes:
        data: the records.
        pools: equally many members and held-outs of each class.
        classes: of the model.
        start: (...), mean of all drawn records, inside the range: what anybody knows of the domain.
        bounds: input range.
        policy: everything that decides.
    """

    data: AuditData
    pools: Pools
    classes: int
    start: Floats
    bounds: InputRange
    policy: Policy


def make_scene(bench: Bench) -> Scene:
    """Draws the records as every family does, by the policy's seed.

    Raises:
        UsageError: ``audit_data``: the records do not fit the model, or the input range is empty.
    """
    data, policy = bench.data, bench.policy
    check_fit(bench.original, data)
    bounds, classes = input_range(bench.original, data), class_count(bench.original, data)
    pools = balanced_pools(data, classes, policy)
    start = np.clip(pools.centre.reshape(data.x.shape[1:]), bounds.low, bounds.high).astype(np.float32)
    return Scene(data, pools, classes, start, bounds, policy)


def thin_reason(pools: Pools, *, minimum: int) -> str | None:
    """Why records cannot be told apart here, or None."""
    if not pools.thin:
        return None
    return f"{len(pools.thin)} classes have fewer than {minimum} members or held-outs"
