"""Rounds the weights of a QDQ model again, on the same steps, so that the outputs of its layers change least.

Only integers change: scales, graph and size stay. What is minimised, and how, is in ``rounding.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from packager.data import Dataset
from packager.ptq.graph import GraphView, attribute, layers
from packager.ptq.moments import by_weight, from_matrices, second_moments, to_matrices
from packager.ptq.rounding import Grid, round_weights

MAX_ROWS = 128


def reround(model: Any, quantised: Any, calibration: Dataset, *, method: str, limit: int) -> str:
    """Changes the weights of ``quantised`` in place, and says how many.

    Args:
        model: the FP32 model that ``quantised`` was made from, with the same node names.
        quantised: with weights behind DequantizeLinear.
        calibration: at most 128 of its rows are used.
        method: ``gptq`` or ``adaround``.
        limit: largest magnitude of a weight.
    """
    exact, view = GraphView(model), GraphView(quantised)
    nodes = {node.name: node for node in quantised.graph.node}
    found = layers(exact)
    chosen = by_weight(found)
    moments = second_moments(
        model, [layer for layer in found if layer.weight in chosen], calibration.take(np.arange(min(len(calibration), MAX_ROWS)))
    )
    changed = 0
    for weight, layer in chosen.items():
        source = view.producers.get(nodes[layer.name].input[1]) if layer.name in nodes else None
        if weight not in moments or source is None or source.op_type != "DequantizeLinear" or source.input[0] not in view.tensors:
            continue
        before = view.array(source.input[0])
        matrices = to_matrices(layer, exact.array(weight).astype(np.float64))
        if before.dtype != np.int8 or matrices is None or (len(source.input) > 2 and view.array(source.input[2]).any()):
            continue
        scales = view.array(source.input[1]).astype(np.float64)
        if scales.size > 1 and int(attribute(source, "axis", 1)) % before.ndim != layer.axis:
            continue
        steps = np.broadcast_to(scales.reshape(-1), (matrices.shape[0] * matrices.shape[1],)).reshape(*matrices.shape[:2], 1)
        rounded = np.stack(
            [
                round_weights(matrix, Grid(step, np.zeros(()), -limit, limit), moment, method=method)
                for matrix, step, moment in zip(matrices, steps, moments[weight], strict=True)
            ]
        )
        after = from_matrices(layer, rounded, before.shape).astype(np.int8)
        changed += int(np.count_nonzero(after != before))
        view.set_array(source.input[0], after)
    return f"{method}: {changed} weights rounded the other way"
