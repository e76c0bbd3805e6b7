"""The technique ``smooth``: moves outliers of activations into the weights that follow.

After a normalisation some features are often a hundred times larger than others, and one step for all of them leaves the
others without precision. Each feature is divided by ``s = a**strength / w**(1 - strength)`` in the normalisation's own
constants, and its row of the following weights is multiplied by ``s``; ``a`` and ``w`` are the largest magnitudes of the feature
and of that row. Exact in FP32 but for rounding, which is checked; the graph keeps its nodes.

Works where all readers of the normalised value are products with constant weights. Source: Xiao et al. 2023, "SmoothQuant",
equation 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import UsageError
from packager.data import Dataset
from packager.features import check_own
from packager.feed import feed_rows
from packager.ptq.graph import GraphView, Layer, attribute, layers, name_nodes
from packager.ptq.observe import observe
from packager.shrink import assert_same_outputs
from packager.toml_table import TomlTable

_NORMALISATIONS = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})
_BOUND = 1e3
_MAX_ROWS = 128
_TOLERANCE = 1e-4  # of the largest output: rounding of FP32


@dataclass(frozen=True)
class Smooth:
    """Settings. ``strength``: 0 leaves activations as they are, 1 makes all of their features equally large."""

    strength: float = 0.5

    @classmethod
    def from_toml(cls, table: TomlTable) -> Smooth:
        """Reads the technique's table of a recipe."""
        return cls(strength=table.number("strength", 0.5, minimum=0.0, maximum=1.0))


@dataclass(frozen=True)
class SmoothResult:
    """The model, and how many normalised values were smoothed."""

    data: bytes
    places: int


@dataclass(frozen=True)
class _Place:
    """A normalised value, the (node, input position) of its per-feature constants, and the layers that read it."""

    value: str
    constants: tuple[tuple[Any, int], ...]
    readers: tuple[Layer, ...]


def smooth(data: bytes, config: Smooth, calibration: Dataset) -> SmoothResult:
    """Smooths an FP32 model; one pass over at most 128 calibration rows.

    Raises:
        UsageError: nothing in the model can be smoothed (``smooth_nothing``).
        SealiftError: outputs changed, which is a defect here (``pack_outputs_changed``).
    """
    model = onnx.load_from_string(data)
    name_nodes(model)
    view = GraphView(model)
    places = _places(view)
    if not places:
        raise UsageError(
            "nothing can be smoothed in this model",
            code="smooth_nothing",
            expected="a normalisation whose readers are all MatMul or Gemm with weights of their own",
            hint="leave 'smooth' out of the recipe",
        )
    rows = calibration.take(np.arange(min(len(calibration), _MAX_ROWS)))
    largest: dict[str, NDArray[np.float64]] = {}
    for values in observe(model, [place.value for place in places], rows):
        for name, array in values.items():
            seen = np.abs(array.astype(np.float64)).reshape(-1, array.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, np.zeros(1)), seen)
    for place in places:
        _apply(view, place, largest[place.value], config.strength)
    for node in model.graph.node:
        node.ClearField("name")
    result = model.SerializeToString(deterministic=True)
    feeds = feed_rows(check_own(data).inputs, calibration.inputs)
    assert_same_outputs(data, result, feeds, what="smooth", relative=_TOLERANCE)
    return SmoothResult(result, len(places))


def can_smooth(model: Any) -> bool:
    """True if ``smooth`` would find something; node names must be set."""
    return bool(_places(GraphView(model)))


def _places(view: GraphView) -> list[_Place]:
    by_node = {layer.name: layer for layer in layers(view)}
    found = []
    for node in view.model.graph.node:
        constants = _feature_constants(view, node)
        value = node.output[0] if node.output else ""
        if not constants or value in view.outputs:
            continue
        width = view.array(constants[0][0].input[constants[0][1]]).size
        readers = [by_node.get(reader.name) for reader in view.consumers.get(value, [])]
        fitting = tuple(reader for reader in readers if reader is not None and _reads(view, reader, value, width))
        if fitting and len(fitting) == len(readers):
            found.append(_Place(value, constants, fitting))
    return found


def _feature_constants(view: GraphView, node: Any) -> tuple[tuple[Any, int], ...]:
    """The constants, one number per feature, that a normalisation ends with; empty where the node ends none."""
    if node.op_type in _NORMALISATIONS:
        last = int(attribute(node, "axis", -1)) == -1 and len([name for name in node.output if name]) == 1
        found = tuple((node, position) for position in range(1, len(node.input)) if node.input[position])
        return found if last and all(_is_vector(view, item, position) for item, position in found) else ()
    if node.op_type == "Add":
        for position in (0, 1):
            maker = view.producers.get(node.input[1 - position])
            if (
                _is_vector(view, node, position)
                and maker is not None
                and maker.op_type == "Mul"
                and view.is_private(maker.output[0])
            ):
                scales = [(maker, index) for index in (0, 1) if _is_vector(view, maker, index)]
                if len(scales) == 1:
                    return ((node, position), scales[0])
        return ()
    if node.op_type == "Mul":
        scales = [(node, index) for index in (0, 1) if _is_vector(view, node, index)]
        return tuple(scales) if len(scales) == 1 else ()
    return ()


def _is_vector(view: GraphView, node: Any, position: int) -> bool:
    name = node.input[position]
    return view.is_float(name) and len(view.tensors[name].dims) == 1 and view.tensors[name].dims[0] > 1


def _reads(view: GraphView, layer: Layer, value: str, width: int) -> bool:
    dims = view.tensors[layer.weight].dims
    plain = layer.node.op_type in ("MatMul", "Gemm") and not attribute(layer.node, "transA", 0)
    return (
        plain
        and layer.node.input[0] == value
        and view.is_private(layer.weight)
        and len(dims) == 2
        and dims[1 - layer.axis] == width
    )


def _apply(view: GraphView, place: _Place, largest: NDArray[np.float64], strength: float) -> None:
    weights = [np.moveaxis(view.array(layer.weight).astype(np.float64), 1 - layer.axis, 0) for layer in place.readers]
    rows = np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0)
    usable = (largest > 0) & (rows > 0)
    scale = np.where(usable, np.where(usable, largest, 1.0) ** strength / np.where(usable, rows, 1.0) ** (1 - strength), 1.0)
    scale = np.clip(scale, 1 / _BOUND, _BOUND)
    for node, position in place.constants:  # constants of equal values are one in the normal form, so each place gets its own
        name = f"{node.name}/{position}"
        divided = (view.array(node.input[position]).astype(np.float64) / scale).astype(np.float32)
        view.model.graph.initializer.append(numpy_helper.from_array(divided, name))
        view.tensors[name] = view.model.graph.initializer[-1]
        node.input[position] = name
    for layer, matrix in zip(place.readers, weights, strict=True):
        view.set_array(layer.weight, np.moveaxis(matrix * scale[:, None], 0, 1 - layer.axis).astype(np.float32))
