"""A made-up table: six columns, of which one is sensitive and hard to guess from the others, and networks trained on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from audits.data import AuditData, check_data
from tests.unit.audits.mitigate import trainers

NAMES = ("age", "income", "visits", "pressure", "weight", "smoker")
SMOKER = 5


def table(*, records: int = 500, seed: int = 0) -> AuditData:
    """Half members; the label depends on all columns with much noise, so that a network must memorise to get it right."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(records, 6)).astype(np.float32)
    x[:, SMOKER] = (0.5 * x[:, 0] + rng.normal(size=records) > 0).astype(np.float32)
    scores = x @ rng.normal(size=(6, 3)) + 2.5 * rng.normal(size=(records, 3))
    member = np.zeros(records, dtype=bool)
    member[rng.permutation(records)[: records // 2]] = True
    return check_data({"x": x, "y": scores.argmax(axis=1), "member": member}, where="test")


def network(data: AuditData, *, epochs: int, width: int, seed: int = 0, **fix: Any) -> bytes:
    inside = data.member
    return trainers.train(data.x[inside], data.y[inside], seed=seed, epochs=epochs, width=width, fix=fix)
