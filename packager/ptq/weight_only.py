"""The techniques ``weight-only``, ``gptq`` and ``adaround``: weights of 12 to 8, 4 or 2 bits, arithmetic in FP32.

The bytes shrink, the arithmetic does not change. Three forms:

- ``folded``: integers, ``Cast`` and ``Mul`` in the standard domain, any opset from 13. The runtime folds them into FP32
  weights when it loads the file, so the variant is as fast as the original, and takes as much memory. Works for every
  operator, in subgraphs too. Below 8 bits several weights share a byte, taken apart by exact FP32 arithmetic. From 9 bits on
  the file holds INT16, and the bundle's encoding stores about as many bits as are used: for networks that 8 bits change too
  much, between those and FP16.
- ``dequantise``: ``DequantizeLinear``, 8 bits; for products the runtime keeps the integers in memory.
- ``matmulnbits``: the operator ``MatMulNBits`` of ``com.microsoft``, for products; needs the feature ``domain:com.microsoft``.

Scales are fitted to the smallest squared error; how weights are rounded is in ``rounding.py``. Weights that are small, or read
by something that takes no weights, stay as they are. Those that layers read in both orientations have a step per leading axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from device_client.errors import UsageError
from packager.data import Dataset
from packager.ptq.encode_weights import encode_folded, encode_matmulnbits, encode_pair, fit_grid
from packager.ptq.graph import GraphView, Layer, all_graphs, all_nodes, attribute, layers, name_nodes, output_axis
from packager.ptq.moments import by_weight, second_moments, to_matrices
from packager.ptq.rounding import METHODS, Floats, round_weights
from packager.shrink import shrink_model
from packager.toml_table import TomlTable

FORMS = ("folded", "dequantise", "matmulnbits")
WEIGHT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "RNN")
_POSITIONS = {"Gather": (0,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}
_MAX_ROWS = 128
_SMALLEST_BLOCK = 8
_WIDTHS = (2, 4, 8, 9, 10, 11, 12)
MIN_LOW_BITS = 768
"""Weights with fewer elements take 8 bits: the nodes that take bytes apart would cost more than the bits save."""


@dataclass(frozen=True)
class WeightOnly:
    """Settings. ``block``: weights of one output channel that share a scale, 0 for all of them.

    ``min_elements``: smaller weights stay FP32. ``ops``: operator types whose weights are taken; empty: all of them.
    """

    bits: int = 8
    block: int = 0
    method: str = "nearest"
    form: str = "folded"
    min_elements: int = 256
    ops: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()

    @classmethod
    def from_toml(cls, table: TomlTable) -> WeightOnly:
        """Reads the table of ``weight-only``."""
        return cls._read(table, cls())

    @classmethod
    def gptq_from_toml(cls, table: TomlTable) -> WeightOnly:
        """Reads the table of ``gptq``: 4 bits in blocks unless it says otherwise."""
        return cls._read(table, cls(bits=4, block=32, method="gptq"))

    @classmethod
    def adaround_from_toml(cls, table: TomlTable) -> WeightOnly:
        """Reads the table of ``adaround``: 4 bits in blocks unless it says otherwise."""
        return cls._read(table, cls(bits=4, block=32, method="adaround"))

    @classmethod
    def _read(cls, table: TomlTable, default: WeightOnly) -> WeightOnly:
        read = cls(
            bits=table.integer("bits", default.bits, minimum=2, maximum=12),
            block=table.integer("block", default.block, minimum=0, maximum=4096),
            method=table.text("method", default.method, choices=METHODS),
            form=table.text("form", default.form, choices=FORMS),
            min_elements=table.integer("min_elements", default.min_elements, minimum=1, maximum=2**31),
            ops=table.texts("ops"),
            exclude_nodes=table.texts("exclude_nodes"),
        )
        is_wide = read.bits > 8 and read.form != "folded"
        if read.bits not in _WIDTHS or is_wide or (read.form == "dequantise" and (read.bits != 8 or read.block)):
            raise UsageError(
                "no such form of weights",
                code="recipe_value",
                where=table.where,
                expected="bits 12 to 8, 4 or 2; form 'folded' above 8; form 'dequantise' with bits 8 and block 0 only",
                actual=f"bits {read.bits}, block {read.block}, form {read.form}",
            )
        return read


@dataclass(frozen=True)
class WeightOnlyResult:
    """The model, how many tensors are encoded, and the share of weight elements in them."""

    data: bytes
    tensors: int
    share: float
    features: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """A tensor to encode. ``rows_first``: output channels are the leading axes; ``lead``: how many of them."""

    graph: Any
    tensor: Any
    rows_first: bool
    lead: int


def quantise_weights(data: bytes, config: WeightOnly, calibration: Dataset) -> WeightOnlyResult:
    """Encodes the weights of a model of opset 13 or higher.

    Cost: one pass over at most 128 calibration rows for ``gptq`` and ``adaround``, none for ``nearest``. Deterministic.

    Raises:
        UsageError: no weight fits the settings (``quantise_nothing``).
    """
    model = onnx.load_from_string(data)
    name_nodes(model)
    moments: dict[str, Floats] = {}
    found: dict[str, Layer] = {}
    if config.method != "nearest":
        chosen = by_weight(layers(GraphView(model)))
        found = dict(chosen)
        rows = calibration.take(np.arange(min(len(calibration), _MAX_ROWS)))
        moments = second_moments(model, list(chosen.values()), rows)
    targets = _targets(model, config)
    if not targets:
        raise UsageError(
            "no weight to encode",
            code="quantise_nothing",
            expected=f"constants of {', '.join(config.ops or WEIGHT_OPS)} with {config.min_elements} elements or more",
            hint="check 'ops', 'exclude_nodes' and 'min_elements' in the recipe",
        )
    total = sum(
        int(np.prod(tensor.dims)) for graph in all_graphs(model.graph) for tensor in graph.initializer if _is_weight(tensor)
    )
    encoded = 0
    for target in targets:
        name = target.tensor.name
        layer = found.get(name) if target.graph is model.graph else None
        encoded += int(np.prod(target.tensor.dims))
        _encode(model, target, config, layer, moments.get(name))
    shrunk = shrink_model(model.SerializeToString())
    features = ("domain:com.microsoft",) if config.form == "matmulnbits" else ()
    return WeightOnlyResult(shrunk, len(targets), encoded / total, features)


def _is_weight(tensor: Any) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1


def _targets(model: Any, config: WeightOnly) -> list[_Target]:
    """Constants that are read as weights everywhere; where that is in several ways, in the one with the steps in front.

    The value is FP32 again before anything reads it, so that any way will do, but for operators that read the integers.
    """
    ops = config.ops or WEIGHT_OPS
    uses: dict[str, set[tuple[bool, int]]] = {}
    spoilt = {value.name for graph in all_graphs(model.graph) for value in graph.output}
    sizes = {tensor.name: len(tensor.dims) for graph in all_graphs(model.graph) for tensor in graph.initializer}
    for node in all_nodes(model.graph):
        wanted = _POSITIONS.get(node.op_type, (1,)) if node.op_type in ops and node.name not in config.exclude_nodes else ()
        for position, name in enumerate(node.input):
            if position in wanted and name in sizes and _layout(node, sizes[name]) is not None:
                uses.setdefault(name, set()).add(_layout(node, sizes[name]) or (True, 1))
            elif name:
                spoilt.add(name)
    found = []
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            layout = uses.get(tensor.name, set())
            large = int(np.prod(tensor.dims)) >= config.min_elements
            fits = len(layout) == 1 or (layout and config.form == "folded")
            if _is_weight(tensor) and large and fits and tensor.name not in spoilt:
                found.append(_Target(graph, tensor, *max(layout)))
    if config.form != "matmulnbits":
        return found
    readers = GraphView(model).consumers
    return [
        target
        for target in found
        if target.graph is model.graph
        and all(_is_product(node, target.tensor.name) for node in readers[target.tensor.name])
        and _nbits_block(_columns(target), config.block)
    ]


def _is_product(node: Any, weight: str) -> bool:
    """True for a product that MatMulNBits can stand for, on the weight ``weight``."""
    plain = all(float(attribute(node, name, 1.0)) == 1.0 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
    return node.op_type in ("MatMul", "Gemm") and node.input[1] == weight and plain


def _columns(target: _Target) -> int:
    dims = target.tensor.dims
    return int(np.prod(dims[target.lead :])) if target.rows_first else int(dims[0])


def _nbits_block(columns: int, wanted: int) -> int:
    """The largest block of MatMulNBits up to the wanted one that divides the columns, or 0."""
    return next((size for size in (256, 128, 64, 32, 16) if size <= max(wanted or 256, 16) and columns % size == 0), 0)


def _layout(node: Any, rank: int) -> tuple[bool, int] | None:
    if rank < 2:
        return None
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return (True, 2) if rank == 3 else None
    if node.op_type in ("Gather", "ConvTranspose"):
        return (True, 1) if int(next((item.i for item in node.attribute if item.name == "axis"), 0)) == 0 else None
    if output_axis(node, rank=rank) == 0:
        return (True, 1)
    return (False, 1) if rank == 2 else None


def _encode(model: Any, target: _Target, config: WeightOnly, layer: Layer | None, moments: Floats | None) -> None:
    weights = np.asarray(onnx.numpy_helper.to_array(target.tensor), dtype=np.float64)
    dims = tuple(weights.shape)
    matrix = weights.reshape(int(np.prod(dims[: target.lead])), -1) if target.rows_first else weights.T
    columns = matrix.shape[1]
    bits = config.bits if config.bits >= 8 or matrix.size % (8 // config.bits) == 0 else 8
    if config.form == "matmulnbits":
        block = _nbits_block(columns, config.block)
    elif config.bits < 8 and matrix.size < MIN_LOW_BITS:
        bits, block = 8, columns
    else:
        block = _block(columns, config.block)
    grid = fit_grid(
        matrix, bits=bits, block=block, symmetric=bits >= 8 or config.form == "matmulnbits", centred=config.form == "matmulnbits"
    )
    if moments is not None and layer is not None and to_matrices(layer, weights) is not None:
        rows = matrix.shape[0] // len(moments)
        parts = [slice(index * rows, (index + 1) * rows) for index in range(len(moments))]
        rounded = np.concatenate(
            [
                round_weights(matrix[part], grid.part(part), moment, method=config.method)
                for part, moment in zip(parts, moments, strict=True)
            ]
        )
    else:
        rounded = round_weights(matrix, grid.part(slice(None)), None, method="nearest")
    if config.form == "matmulnbits":
        encode_matmulnbits(model, target.tensor.name, rounded, grid, bits=bits, block=block)
    elif config.form == "dequantise":
        encode_pair(target.graph, target.tensor, rounded, grid, rows_first=target.rows_first, lead=target.lead)
    else:
        encode_folded(
            target.graph, target.tensor, rounded, grid, bits=bits, block=block, rows_first=target.rows_first, lead=target.lead
        )


def _block(columns: int, wanted: int) -> int:
    """The largest divisor of ``columns`` up to ``wanted``, or all of them where none is of a useful size."""
    fitting = [size for size in range(_SMALLEST_BLOCK, min(wanted, columns) + 1) if columns % size == 0]
    return fitting[-1] if fitting else columns
