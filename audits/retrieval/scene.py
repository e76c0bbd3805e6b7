"""What every attack of the retrieval tests shares: the drawn records, the input range, the common start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audits.data import AuditData, Floats
from audits.family import Bench
from audits.instance_gap import Pools, draw_pools
from audits.inversion import InputRange
from audits.policy import Policy
from device_client.errors import UsageError


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
        UsageError: ``audit_data``: the input range is empty, or a label is beyond the model's classes.
    """
    data, policy = bench.data, bench.policy
    given = bench.original.input_range
    bounds = (
        InputRange(float(data.x.min()), float(data.x.max()), "data")
        if given is None
        else InputRange(float(given[0]), float(given[1]), "contract")
    )
    if not bounds.width > 0:
        raise UsageError(
            "the input range is empty", code="audit_data", expected="low below high", actual=f"{bounds.low}..{bounds.high}"
        )
    shape = bench.original.model.outputs[0].shape if bench.original.model.outputs else None
    declared = shape[-1] if shape else None
    classes = declared if isinstance(declared, int) and declared > 1 else data.classes
    if data.classes > classes:
        raise UsageError(
            "a label is beyond the model's classes",
            code="audit_data",
            where="y",
            expected=f"below {classes}",
            actual=data.classes - 1,
        )
    pools = draw_pools(
        data,
        classes=classes,
        minimum=policy.decision.min_records_per_class,
        maximum=policy.decision.max_records_per_class,
        seed=policy.seed,
    )
    start = np.clip(pools.centre.reshape(data.x.shape[1:]), bounds.low, bounds.high).astype(np.float32)
    return Scene(data, pools, classes, start, bounds, policy)


def thin_reason(pools: Pools, *, minimum: int) -> str | None:
    """Why records cannot be told apart here, or None."""
    if not pools.thin:
        return None
    return f"{len(pools.thin)} classes have fewer than {minimum} members or held-outs"
