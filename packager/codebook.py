"""The technique ``codebook``: each large weight tensor takes few distinct values, which the encoding of that name stores small.

The file that runs stays plain ONNX, as large and as fast as before; what shrinks is the layer in the bundle, 32 or 8 bits for a
weight to ``bits`` and less. Works on float weights, and on INT8 weights after ``int8-static``, whose levels are then whole numbers.
Three and two values (``ternary``, ``binary``) lose much without training; on float weights with a scale for each channel they
survive a following ``int8-static`` as three and two bytes.

Deterministic. Costs a second per million weights, and some seconds per layer of thousands of inputs with ``use_activations``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import UsageError
from packager.clustering.assign import assign_rows, fit_levels, fit_scales, output_error
from packager.clustering.gram import measure_grams
from packager.clustering.layers import Layer, find_layers
from packager.clustering.levels import k_means, three_levels, two_levels
from packager.data import Dataset
from packager.toml_table import TomlTable

LEVELS = ("k-means", "ternary", "binary")
_ZEROS_COUNT = 0.1  # a larger share of exact zeros is a pruned tensor: they stay zero
_MAX_LISTED = 64
_ROUNDS = 4  # of assigning and fitting: most layers settle in two or three

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Codebook:
    """Settings of the technique ``codebook``.

    ``bits``: a tensor gets at most ``2**bits`` values; ``ternary`` and ``binary`` ignore it. ``per_channel``: values are scaled
    for each output channel of float weights; INT8 weights have such scales already. ``min_elements``: smaller tensors stay.
    ``exclude``: names of tensors that stay. ``use_activations``: what calibration rows make of the layers decides what is near.
    """

    bits: int = 4
    levels: str = "k-means"
    per_channel: bool = False
    min_elements: int = 1024
    exclude: tuple[str, ...] = ()
    use_activations: bool = True

    @classmethod
    def from_toml(cls, table: TomlTable) -> Codebook:
        """Reads the technique's table of a recipe."""
        levels = table.text("levels", "k-means", choices=LEVELS)
        return cls(
            bits=table.integer("bits", 4, minimum=1, maximum=6),
            levels=levels,
            per_channel=table.boolean("per_channel", default=levels != "k-means"),
            min_elements=table.integer("min_elements", 1024, minimum=2, maximum=2**31),
            exclude=table.texts("exclude"),
            use_activations=table.boolean("use_activations", default=True),
        )


@dataclass(frozen=True)
class Clustered:
    """A model whose chosen tensors take few values, and what became of each tensor: for the report."""

    data: bytes
    evidence: dict[str, object]


def cluster_weights(data: bytes, config: Codebook, calibration: Dataset) -> Clustered:
    """Replaces the weights of a model by the nearest of few values.

    Raises:
        UsageError: no tensor is left by the settings (``codebook_nothing``), or one is excluded that is none of them
            (``codebook_exclude``).
    """
    model = onnx.load_from_string(data)
    layers = _chosen(find_layers(model, min_elements=config.min_elements), config)
    grams = measure_grams(data, layers, calibration) if config.use_activations else {}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    told = []
    for layer in layers:
        weights, report = _cluster(layer, config, grams.get(layer.name))
        tensors[layer.name].CopyFrom(numpy_helper.from_array(weights, layer.name))
        told.append(report)
    evidence: dict[str, object] = {
        "technique": "codebook",
        "levels": config.levels,
        "tensors": len(told),
        "weights": sum(layer.weights.size for layer in layers),
        "activations": f"{len(grams)} of {len(layers)} tensors",
        "error": "relative square error of a layer's output over calibration rows; of its weights, where activations were not used",
        "listed": told[:_MAX_LISTED],
    }
    return Clustered(model.SerializeToString(), evidence)


def _chosen(layers: list[Layer], config: Codebook) -> list[Layer]:
    names = {layer.name for layer in layers}
    unknown = sorted(set(config.exclude) - names)
    if unknown:
        raise UsageError(
            "a tensor is excluded that the technique would not touch",
            code="codebook_exclude",
            expected=", ".join(sorted(names))[:300],
            actual=", ".join(unknown)[:300],
        )
    chosen = [layer for layer in layers if layer.name not in config.exclude and np.isfinite(layer.weights).all()]
    if not chosen:
        raise UsageError(
            "no weight tensor is large enough for a codebook",
            code="codebook_nothing",
            expected=f"weights of Conv, Gemm, MatMul or a recurrent operator, {config.min_elements} numbers or more",
            hint="lower min_elements in the recipe, or leave the technique out",
        )
    return chosen


def _cluster(layer: Layer, config: Codebook, gram: Floats | None) -> tuple[NDArray[Any], dict[str, object]]:
    rows = layer.rows()
    zeros = rows == 0
    keeps_zeros = bool(zeros.mean() >= _ZEROS_COUNT) and config.levels != "binary"
    scales = _row_scales(rows, layer, config)
    normal = rows / scales[:, None]
    importance = np.broadcast_to((scales * layer.steps)[:, None] ** 2, rows.shape) * _input_power(gram, rows.shape)
    levels = _levels(normal, importance + 1e-12 * importance.max() + np.finfo(float).tiny, config, zeros if keeps_zeros else None)
    if layer.is_integer:
        levels = np.unique(_whole(levels))
    chosen = _best(rows, levels, scales, layer, gram, config, zeros if keeps_zeros else None)
    weights = layer.restored(chosen)
    kept = np.moveaxis(weights, layer.axis, 0).reshape(rows.shape).astype(np.float64)
    report: dict[str, object] = {
        "name": layer.name,
        "weights": int(rows.size),
        "distinct": len(np.unique(weights)),
        "error": float(f"{output_error(rows * layer.steps[:, None], kept * layer.steps[:, None], gram):.4g}"),
    }
    return weights, report


def _best(
    rows: Floats,
    levels: Floats,
    scales: Floats,
    layer: Layer,
    gram: Floats | None,
    config: Codebook,
    zeros: NDArray[np.bool_] | None,
) -> Floats:
    """The weights, in units of the stored numbers: assigned and fitted in turn while the output comes nearer."""
    best, least = rows, np.inf
    for _ in range(_ROUNDS):
        indices = assign_rows(rows, levels, scales, gram, zeros=zeros)
        levels, scales = _fitted(rows, indices, levels, scales, layer, gram, config, zeros)
        chosen = levels[indices] * scales[:, None]
        if zeros is not None:
            chosen[zeros] = 0
        error = output_error(rows * layer.steps[:, None], chosen * layer.steps[:, None], gram)
        if error >= least:
            break
        best, least, levels = chosen, error, np.unique(levels)
    return best


def _row_scales(rows: Floats, layer: Layer, config: Codebook) -> Floats:
    if layer.is_integer or not config.per_channel:
        return np.ones(len(rows))
    largest = np.abs(rows).max(axis=1)
    return np.where(largest > 0, largest, 1.0)


def _input_power(gram: Floats | None, shape: tuple[int, ...]) -> Floats:
    """How large each weight's input is on average: (channels, inputs)."""
    if gram is None:
        return np.ones(shape)
    power = np.array([np.diag(matrix) for matrix in gram])
    return np.repeat(power, shape[0] // len(gram), axis=0)


def _levels(values: Floats, importance: Floats, config: Codebook, zeros: NDArray[np.bool_] | None) -> Floats:
    flat, weights = values.reshape(-1), importance.reshape(-1)
    if config.levels == "ternary":
        return np.unique(three_levels(flat, weights))
    if config.levels == "binary":
        return np.unique(two_levels(flat, weights))
    if zeros is None or zeros.all():
        return k_means(flat, weights, 2**config.bits)
    used = ~zeros.reshape(-1)
    return k_means(flat[used], weights[used], 2**config.bits - 1)


def _fitted(
    rows: Floats,
    indices: NDArray[np.intp],
    levels: Floats,
    scales: Floats,
    layer: Layer,
    gram: Floats | None,
    config: Codebook,
    zeros: NDArray[np.bool_] | None,
) -> tuple[Floats, Floats]:
    """Levels or scales once more, for this assignment; symmetric levels stay symmetric, and those of INT8 whole numbers."""
    values = levels[indices] if zeros is None else np.where(zeros, 0.0, levels[indices])
    steps = layer.steps
    if config.levels == "k-means" and (layer.is_integer or not config.per_channel):
        fitted = fit_levels(rows * steps[:, None], indices, levels, scales * steps, gram, zeros=zeros)
        return (_whole(fitted) if layer.is_integer else fitted), scales
    if config.per_channel and not layer.is_integer:
        return levels, scales * fit_scales(rows, values * scales[:, None], gram)
    factor = fit_scales(rows * steps[:, None], values * steps[:, None], gram, together=True)[0]
    return (_whole(levels * factor) if layer.is_integer else levels * factor), scales


def _whole(levels: Floats) -> Floats:
    return np.clip(np.rint(levels), -127, 127)
