"""What the calibration rows make of each layer's inputs: the mean of ``x x^T``, which says what an error in a weight costs.

The square error of a layer's output, for weights that are off by ``e``, is ``e^T G e`` with this matrix ``G``. One pass over at
most ``MAX_ROWS`` rows in the device's runtime; of convolutions, evenly spaced windows. Deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper

from device_client.inference.session import open_session
from packager.clustering.layers import Layer, Windows
from packager.data import Dataset
from packager.evaluate import BATCH_ROWS
from packager.features import check_own
from packager.feed import feed_rows, rows_per_run

MAX_ROWS = 128
MAX_WIDTH = 2560  # inputs of one channel: beyond, the matrix and its inverse cost more than they give
MAX_GRAM_BYTES = 512 * 1024 * 1024
_WINDOWS_PER_BATCH = 4096

Grams = dict[str, NDArray[np.float64]]


def measure_grams(data: bytes, layers: Sequence[Layer], calibration: Dataset) -> Grams:
    """For each layer that has a source and fits the bounds: (group, inputs, inputs), float64, the mean over what was seen.

    Args:
        data: the model that the layers are of.
        layers: as ``find_layers`` gives them.
        calibration: rows of its inputs.
    """
    chosen = _affordable(layers)
    if not chosen:
        return {}
    model = onnx.load_from_string(data)
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    wanted = {layer.source: layer.source_type for layer in chosen if layer.source is not None}
    for name in sorted(wanted.keys() - known):
        model.graph.output.append(helper.make_tensor_value_info(name, wanted[name], None))
    sums: Grams = {}
    seen: dict[str, int] = {}
    checked = check_own(model.SerializeToString(), where="the model with inner values as outputs")
    for values in _batches(checked, calibration):
        for layer in chosen:
            patches = _patches(values[layer.source or ""], layer)
            sums[layer.name] = sums.get(layer.name, 0) + np.matmul(patches.transpose(0, 2, 1), patches).astype(np.float64)
            seen[layer.name] = seen.get(layer.name, 0) + patches.shape[1]
    return {name: total / seen[name] for name, total in sums.items()}


def _affordable(layers: Sequence[Layer]) -> list[Layer]:
    chosen, spent = [], 0
    for layer in layers:
        width = layer.weights.size // layer.weights.shape[layer.axis]
        cost = 8 * layer.group * width * width
        if layer.source is not None and width <= MAX_WIDTH and spent + cost <= MAX_GRAM_BYTES:
            chosen.append(layer)
            spent += cost
    return chosen


def _batches(model: Any, calibration: Dataset) -> Iterator[Mapping[str, NDArray[Any]]]:
    with open_session(model) as session:
        rows = min(len(calibration), MAX_ROWS)
        step = rows_per_run(session.inputs, calibration.inputs, limit=BATCH_ROWS)
        for begin in range(0, rows, step):
            inputs = feed_rows(session.inputs, calibration.inputs, start=begin, count=min(step, rows - begin))
            yield {**inputs, **session.run(inputs)}


def _patches(values: NDArray[Any], layer: Layer) -> NDArray[np.float32]:
    """(group, samples, inputs): what is multiplied with a row of the weights, one line for each place."""
    values = values.astype(np.float32) - layer.zero
    if layer.windows is None:
        flat = values.reshape(-1, values.shape[-1])
        return _thinned(flat)[None]
    windows = _unfolded(values, layer.windows)  # (N, C, places, kernel)
    count, channels, places, kernel = windows.shape
    lines = windows.transpose(0, 2, 1, 3).reshape(count * places, layer.group, channels // layer.group * kernel)
    return _thinned(lines).transpose(1, 0, 2)


def _thinned(lines: NDArray[Any]) -> NDArray[Any]:
    return lines[:: -(-len(lines) // _WINDOWS_PER_BATCH)]


def _unfolded(values: NDArray[Any], windows: Windows) -> NDArray[Any]:
    count = len(windows.kernel)
    padded = np.pad(values, [(0, 0), (0, 0), *windows.pads])
    spans = tuple((size - 1) * step + 1 for size, step in zip(windows.kernel, windows.dilations, strict=True))
    axes = tuple(range(2, 2 + count))
    view = sliding_window_view(padded, spans, axis=axes)
    places = tuple(slice(None, None, stride) for stride in windows.strides)
    inside = tuple(slice(None, None, step) for step in windows.dilations)
    view = view[(slice(None), slice(None), *places, *inside)]
    return view.reshape(*view.shape[:2], int(np.prod(view.shape[2 : 2 + count])), int(np.prod(windows.kernel)))
