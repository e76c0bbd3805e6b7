from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.prune_onnx.graph import GraphView, run_batches
from packager.prune_onnx.layer import linear_layer, matrix, read_columns, read_outputs, weights

from .patterns import Draft, dataset, prepared

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strides": {"strides": [2, 1]},
    "dilations": {"dilations": [1, 2]},
    "uneven pads": {"pads": [0, 1, 2, 0]},
    "pads at the end": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "pads at the start": {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    "no pads": {"auto_pad": "VALID"},
    "groups": {"group": 2},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("positions", [5, 1000])
def test_a_convolution_is_its_columns_times_its_matrix(tmp_path: Path, name: str, positions: int) -> None:
    d, more = Draft(), CONVOLUTIONS[name]
    groups = more.get("group", 1)
    bias = d.rng.standard_normal(8)
    weight = d.constant(d.rng.standard_normal((8, 4 // groups, 3, 2)))
    first = d.op("Conv", d.op("Relu", "x"), weight, d.constant(bias), kernel_shape=[3, 2], **more)
    source, shape = d.classify(d.op("Relu", first), 8, rows=(4, 9, 7))
    model, rows = prepared(tmp_path, source), dataset(shape, 6)
    view = GraphView(model, rows)
    layer = linear_layer(view, 1, positions=positions)
    assert layer is not None
    values = next(run_batches(model, [layer.node.input[0], layer.node.output[0]], rows, batch=6))
    columns = read_columns(layer, values[layer.node.input[0]], np.random.default_rng(3))
    wanted = read_outputs(layer, values[layer.node.output[0]], np.random.default_rng(3))
    kernel = view.constants[layer.node.input[1]]
    found = (columns @ matrix(layer, kernel)).transpose(1, 0, 2).reshape(wanted.shape) + bias
    assert columns.shape[1] == 6 * min(positions, values[layer.node.output[0]][0, 0].size)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_array_equal(weights(layer, matrix(layer, kernel), shape=kernel.shape), kernel)
