"""Finds out what a group's predicted costs mean for the model's outputs, by trying.

A cost is relative to the output of the next layer. How much of that reaches the end differs a lot between layers: a
residual branch adds little, the last layer is the end. So from each group alone a third of its steps is taken, the layers
that read it are fitted, and the change of the model's outputs sets the scale of the group's costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from packager.data import Dataset
from packager.prune_onnx.cut import cut_channels
from packager.prune_onnx.graph import Array, GraphView, run_batches
from packager.prune_onnx.refit import refit_layers
from packager.prune_onnx.select import BATCH_ROWS, Ranking
from packager.prune_onnx.trace import Trace

_PROBE_ROWS = 128
_PROBE_ELEMENTS = 2**24
_SHARE = 3
_TINY = 1e-9


def scale_costs(trace: Trace, data: bytes, rankings: Sequence[Ranking], rows: Dataset, *, seed: int) -> list[Ranking]:
    """The same rankings with costs as shares of the outputs' variance. One fit and one run for each group."""
    some = spread_rows(rows, trace.view, elements=_PROBE_ELEMENTS, least=_PROBE_ROWS // 8, most=_PROBE_ROWS)
    before = run_outputs(data, some)
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
        change = sum(output_changes(before, run_outputs(model.SerializeToString(deterministic=True), some)).values())
        scale = (change + _TINY) / (predicted + _TINY)
        scaled.append(replace(ranking, costs=tuple(cost * scale for cost in ranking.costs)))
    return scaled


def spread_rows(rows: Dataset, view: GraphView, *, elements: int, least: int, most: int) -> Dataset:
    """Rows at equal distances, for they may be in order of class; as many as keep ``elements`` numbers in all tensors."""
    per_row = sum(int(np.prod(shape)) for shape in view.shapes.values())
    count = min(len(rows), most, max(least, elements // per_row))
    return rows.take(np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64)))


def run_outputs(data: bytes, rows: Dataset) -> dict[str, Array]:
    """All outputs of a model, (N, ...)."""
    names = [value.name for value in onnx.load_from_string(data).graph.output]
    parts = list(run_batches(data, names, rows, batch=BATCH_ROWS))
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in names}


def output_changes(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, float]:
    """Per output of real numbers the squared differences as a share of the variance."""
    changes = {}
    for name, old in before.items():
        if old.dtype.kind == "f":
            want = old.astype(np.float64)
            spread = float(np.square(want - want.mean(axis=0)).sum())
            changes[name] = float(np.square(after[name] - want).sum()) / (spread + _TINY)
    return changes
