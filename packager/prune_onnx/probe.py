"""Finds out what a group's predicted costs mean for the model's outputs, by trying.

A cost is relative to the output of the next layer. How much of that reaches the end differs a lot between layers: a
residual branch adds little, the last layer is the end. So from each group alone a third of its steps is taken, the layers
that read it are fitted, and the change of the model's outputs sets the scale of the group's costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from packager.data import Dataset
from packager.prune_onnx.cut import cut_channels
from packager.prune_onnx.graph import Array, run_batches
from packager.prune_onnx.refit import refit_layers
from packager.prune_onnx.select import BATCH_ROWS, Ranking
from packager.prune_onnx.trace import Trace

_PROBE_ROWS = 128
_SHARE = 3
_TINY = 1e-9


def scale_costs(trace: Trace, data: bytes, rankings: Sequence[Ranking], rows: Dataset, *, seed: int) -> list[Ranking]:
    """The same rankings with costs as shares of the outputs' variance. One fit and one run for each group."""
    some = rows.take(np.unique(np.linspace(0, len(rows) - 1, _PROBE_ROWS).astype(np.int64)))  # rows may be in order of class
    before = _outputs(data, some)
    scaled = []
    for ranking in rankings:
        count = -(-len(ranking.order) // _SHARE)
        predicted = sum(ranking.costs[:count])
        if not count:
            scaled.append(ranking)
            continue
        removed = set(ranking.order[:count])
        model = cut_channels(trace, removed)
        refit_layers(trace, data, model, removed, some, seed=seed, only=ranking.readers)
        change = _change(before, _outputs(model.SerializeToString(deterministic=True), some))
        scale = (change + _TINY) / (predicted + _TINY)
        scaled.append(replace(ranking, costs=tuple(cost * scale for cost in ranking.costs)))
    return scaled


def _outputs(data: bytes, rows: Dataset) -> list[Array]:
    names = [value.name for value in onnx.load_from_string(data).graph.output]
    parts = list(run_batches(data, names, rows, batch=BATCH_ROWS))
    return [np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in names]


def _change(before: Sequence[Array], after: Sequence[Array]) -> float:
    """Squared differences as a share of the variance, summed over outputs of real numbers."""
    total = 0.0
    for old, new in zip(before, after, strict=True):
        if old.dtype.kind == "f":
            want = old.astype(np.float64)
            total += float(np.square(new - want).sum() / (np.square(want - want.mean(axis=0)).sum() + _TINY))
    return total
