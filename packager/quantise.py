"""Static INT8 quantisation with onnxruntime's quantiser as the engine, driven so that its traps are closed.

Unsigned 8-bit activations, signed symmetric per-channel weights, QDQ form in the standard operator domain. What is
ours: which operators take part, 7-bit weights by default, exclusion of nodes with huge constants (an attention mask of
-1e9 took a language model's perplexity from 17 to 1195), the check that something did change, and ``requires`` read
from the bytes instead of from the settings.

Why 7 bits: without VNNI, x86 multiplies unsigned by signed bytes into saturating 16-bit sums, and 255 * 127 * 2 does
not fit: an 8-bit variant fell from 92 % to 8 % on such a CPU. With weights in [-64, 64] the largest sum is
255 * 64 * 2 = 32640, below 2**15. The cost is one bit of weight precision.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import SealiftError, UsageError
from device_client.inference.runtime import import_runtime
from packager.data import Dataset
from packager.shrink import shrink_model
from packager.toml_table import TomlTable

logger = logging.getLogger(__name__)

HEAVY_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Where the weights and the arithmetic are; safe in every network."""

LIGHT_OPS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Quantised too in plain convolutional networks, so that data stays 8-bit between heavy operators."""

_PER_TENSOR_RANGES_HURT = frozenset({"Erf", "Gelu", "LayerNormalization", "InstanceNormalization", "SimplifiedLayerNormalization"})
_HUGE = 1e4  # constants beyond it are masks, not data
_SAFE_WEIGHT = 64
_BATCH_ROWS = 32


@dataclass(frozen=True)
class Int8Static:
    """Settings of the technique ``int8-static``.

    ``calibration``: how activation ranges follow from the calibration part (``minmax``, ``percentile``, ``entropy``).
    ``reduce_range``: 7-bit weights. ``ops``: operator types, or empty for the choice by network. ``exclude_ops``:
    taken out of that list.
    """

    calibration: str = "minmax"
    per_channel: bool = True
    reduce_range: bool = True
    ops: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()

    @classmethod
    def from_toml(cls, table: TomlTable) -> Int8Static:
        """Reads the technique's table of a recipe."""
        return cls(
            calibration=table.text("calibration", "minmax", choices=("minmax", "percentile", "entropy")),
            per_channel=table.boolean("per_channel", default=True),
            reduce_range=table.boolean("reduce_range", default=True),
            ops=table.texts("ops"),
            exclude_ops=table.texts("exclude_ops"),
        )


@dataclass(frozen=True)
class QuantisationResult:
    """A quantised model, not larger than it must be, with what was done: for the report."""

    data: bytes
    notes: tuple[str, ...]
    quantised_ops: tuple[tuple[str, int], ...]
    int8_weight_share: float  # of all weight elements, in [0, 1]


def quantise_int8_static(data: bytes, config: Int8Static, calibration: Dataset) -> QuantisationResult:
    """Quantises an FP32 model of opset 13 or higher.

    Two passes over the calibration rows at most; memory holds one batch of activations (``minmax``), or a histogram
    per tensor. Deterministic: no randomness, one thread.

    Raises:
        UsageError: the settings leave nothing to quantise, or the engine cannot take this model.
    """
    model = onnx.load_from_string(data)
    ops = _operators(model, config)
    masks = _nodes_with_huge_constants(model, ops)
    quantised = _run_engine(model, config, ops, masks, calibration)
    result = shrink_model(quantised)
    return _describe(result, ops, notes=_notes(config, ops, masks))


def is_saturation_safe(data: bytes) -> bool:
    """True if no 8-bit weight of the model can saturate 16-bit sums on x86 without VNNI."""
    tensors = onnx.load_from_string(data).graph.initializer
    weights = [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8]
    return all(int(np.abs(weight.astype(np.int16)).max(initial=0)) <= _SAFE_WEIGHT for weight in weights)


def _operators(model: Any, config: Int8Static) -> tuple[str, ...]:
    present = {node.op_type for node in model.graph.node}
    if config.ops:
        chosen: tuple[str, ...] = config.ops
    elif present & _PER_TENSOR_RANGES_HURT or _has_inner_softmax(model):
        chosen = HEAVY_OPS
    else:
        chosen = HEAVY_OPS + LIGHT_OPS
    ops = tuple(op for op in chosen if op in present and op not in config.exclude_ops)
    if not set(ops) & set(HEAVY_OPS):
        raise UsageError(
            "nothing to quantise in this model",
            code="quantise_nothing",
            expected=f"one of {', '.join(HEAVY_OPS)}",
            actual=", ".join(sorted(present)),
            hint="check 'ops' and 'exclude_ops' in the recipe, or pack with an empty list: technique = []",
        )
    return ops


def _has_inner_softmax(model: Any) -> bool:
    """True where a heavy operator computes with what a Softmax gave, as attention does; a final Softmax is none."""
    reached: set[str] = set()
    for node in model.graph.node:  # in topological order
        follows = bool(reached & set(node.input))
        if follows and node.op_type in HEAVY_OPS:
            return True
        if follows or node.op_type == "Softmax":
            reached.update(node.output)
    return False


def _nodes_with_huge_constants(model: Any, ops: tuple[str, ...]) -> list[str]:
    huge = set()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            if array.size and not float(np.abs(array).max()) <= _HUGE:
                huge.add(tensor.name)
    for index, node in enumerate(model.graph.node):  # the engine selects nodes by name, and ours have none
        node.name = f"n{index}"
    return [node.name for node in model.graph.node if node.op_type in ops and huge & set(node.input)]


class _Rows:
    """Feeds calibration rows to the engine; the shape of ``CalibrationDataReader``."""

    def __init__(self, data: Dataset, *, batch: int) -> None:
        self._batches = iter(
            [{name: array[start : start + batch] for name, array in data.inputs.items()} for start in range(0, len(data), batch)]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


def _run_engine(model: Any, config: Int8Static, ops: tuple[str, ...], masks: list[str], calibration: Dataset) -> bytes:
    import_runtime()  # first, so that the engine is loaded with its telemetry off
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(_Rows)
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    # Histogram methods stack activations of equal shape, and some models have a fixed batch of one.
    dynamic = all(not value.type.tensor_type.shape.dim[0].HasField("dim_value") for value in model.graph.input)
    batch = _BATCH_ROWS if dynamic and config.calibration == "minmax" else 1
    with tempfile.TemporaryDirectory(prefix="sealift-") as folder, _quiet_engine():
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        source.write_bytes(model.SerializeToString())
        try:
            quantize_static(
                source,
                target,
                _Rows(calibration, batch=batch),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(ops),
                nodes_to_exclude=masks,
                per_channel=config.per_channel,
                reduce_range=config.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[config.calibration],
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
            )
        except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, IndexError, AssertionError) as e:
            raise UsageError(
                f"the quantiser cannot take this model: {' '.join(str(e).split())[:200]}",
                code="quantise_failed",
                hint="exclude the operator that it names with 'exclude_ops' in the recipe",
            ) from e
        return target.read_bytes()


@contextlib.contextmanager
def _quiet_engine() -> Iterator[None]:
    """The engine prints, and logs advice on the root logger, which would install a handler there."""
    root = logging.getLogger()
    handler = logging.NullHandler()
    root.addHandler(handler)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield
        logger.debug("quantiser: %s", printed.getvalue()[:500])
    finally:
        root.removeHandler(handler)


def _describe(data: bytes, ops: tuple[str, ...], *, notes: tuple[str, ...]) -> QuantisationResult:
    """Checks that the pass did something sound, and counts it."""
    graph = onnx.load_from_string(data).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    int8 = sum(array.size for array in arrays.values() if array.dtype == np.int8 and array.ndim > 1)
    floats = sum(array.size for array in arrays.values() if array.dtype == np.float32 and array.ndim > 1)
    if not int8:
        raise UsageError(
            "quantisation changed no weight",
            code="quantise_nothing",
            hint="weights must be constants of Conv, Gemm or MatMul; check 'ops' and 'exclude_ops' in the recipe",
        )
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = arrays.get(node.input[1])
            if scale is None or not bool(np.all(np.isfinite(scale) & (scale > 0))):
                raise SealiftError(
                    "quantisation made an unusable scale",
                    code="quantise_scale",
                    where=node.input[0],
                    expected="finite and above zero",
                    hint="look for constant or infinite values in the calibration data",
                )
    counts = Counter(
        node.op_type
        for node in graph.node
        if node.op_type in ops and any(producers[name].op_type == "DequantizeLinear" for name in node.input if name in producers)
    )
    return QuantisationResult(data, notes, tuple(sorted(counts.items())), int8 / (int8 + floats))


def _notes(config: Int8Static, ops: tuple[str, ...], masks: list[str]) -> tuple[str, ...]:
    notes = [f"operators: {', '.join(sorted(ops))}"]
    if masks:
        notes.append(f"{len(masks)} nodes left in FP32: they hold constants beyond {_HUGE:g}")
    if not config.reduce_range:
        notes.append("8-bit weights: saturate on x86 without VNNI, so only such CPUs are named in requires")
    return tuple(notes)
