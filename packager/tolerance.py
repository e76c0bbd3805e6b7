"""How far a device's outputs may lie from the golden ones: from the output's own step, and from a second runtime.

Another CPU may round an intermediate value the other way. How much that moves the output is measured, not guessed: the
probes also run in the ONNX reference implementation (numpy, another arithmetic), and the largest difference counts
double. Where that implementation is too slow, lacks an operator, or is so far away that it must compute something else, a share
of the output's span is used instead.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.bundle.contract import Tolerance
from device_client.inference.golden import filler
from packager.footprint import activation_elements
from packager.graphs import all_nodes, is_standard

logger = logging.getLogger(__name__)

_REFERENCE_PROBES = 8
_MAX_REFERENCE_ELEMENTS = 400_000  # about a second per probe in the reference implementation
_SPAN_SHARE = {
    "fp32": 2.0**-13,
    "fp16": 2.0**-13,
    "w12": 2.0**-13,
    "w11": 2.0**-13,
    "w10": 2.0**-13,
    "w9": 2.0**-13,
    "w8": 2.0**-13,
    "w4": 2.0**-13,
    "w2": 2.0**-13,
}
_INTEGER_SPAN_SHARE = 2.0**-6  # of any other precision: a step of 8 bits may fall the other way
_FLOAT_FLOOR = 2.0**-17  # of the span: what reordering FP32 sums may change
_IMPLAUSIBLE = 2.0**4  # times the share of the span that is used instead
_OLD_BATCH_NORM, _NEW_BATCH_NORM = 13, 15  # opsets: until 13 the reference implementation normalises by the batch at hand
_STEP_SLACK = 1.001  # a step is a float32, and so are the two values whose difference is compared with it
_MOVES_ONLY = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Concat"})


def choose_tolerance(
    data: bytes, precision: str, inputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]
) -> Tolerance:
    """The tolerance of one variant.

    Args:
        data: the variant's bytes.
        precision: as in ``Compressed``; those that compute in FP32 are compared more closely.
        inputs: probes, (count, ...).
        expected: what the real runtime gave for them, (count, ...).
    """
    gap = reference_gap(data, inputs, expected)
    step = output_step(data)
    if step is not None and (gap is None or gap <= step * _STEP_SLACK):
        return Tolerance("one_lsb", float(step * _STEP_SLACK))
    span = _span(expected)
    share = span * _SPAN_SHARE.get(precision, _INTEGER_SPAN_SHARE)
    if gap is not None and gap > _IMPLAUSIBLE * share:
        logger.info("the reference implementation computes something else: off by %g of %g", gap, span)
        gap = None
    allowed = share if gap is None else max(2 * gap, span * _FLOAT_FLOOR)
    return Tolerance("absolute", 2.0 ** math.ceil(math.log2(allowed)))


def _span(expected: Mapping[str, NDArray[Any]]) -> float:
    """The widest range of an output; of floating-point ones where there are any, since indices say nothing about scores."""
    floats = [array for array in expected.values() if array.dtype.kind == "f"]
    spans = [float(np.ptp(real)) for array in floats or expected.values() if (real := _real(array)).size]
    return max(spans, default=0.0) or 1.0


def _real(array: NDArray[Any]) -> NDArray[np.float64]:
    """The numbers of an output without those that fill it up to one size."""
    return np.asarray(array[array != filler(array.dtype)] if array.dtype.kind in "iuf" else array, dtype=np.float64)


def output_step(data: bytes) -> float | None:
    """The largest quantisation step of the outputs, or ``None`` if one of them is not directly a quantised value."""
    graph = onnx.load_from_string(data).graph
    producers = {name: node for node in graph.node for name in node.output}
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    steps = []
    for output in graph.output:
        pending = [output.name]
        while pending:
            node = producers.get(pending.pop())
            if node is None:
                return None
            if node.op_type in _MOVES_ONLY:
                pending.extend(name for name in node.input if name in producers)
            elif node.op_type == "DequantizeLinear" and node.input[1] in arrays:
                steps.append(float(numpy_helper.to_array(arrays[node.input[1]]).max()))
            else:
                return None
    return max(steps, default=None)


def reference_gap(data: bytes, inputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float | None:
    """Largest difference between the real runtime and the ONNX reference on the first probes; ``None`` if unavailable."""
    if activation_elements(data) > _MAX_REFERENCE_ELEMENTS:
        return None
    from onnx.reference import ReferenceEvaluator

    names = list(expected)
    gap = 0.0
    try:
        evaluator = ReferenceEvaluator(_for_the_reference(data))
        for index in range(min(_REFERENCE_PROBES, len(next(iter(inputs.values()))))):
            values = evaluator.run(names, {name: array[index : index + 1] for name, array in inputs.items()})
            for name, value in zip(names, values, strict=True):
                gap = max(gap, float(np.abs(np.asarray(value, np.float64) - expected[name][index : index + 1]).max()))
    except (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as e:
        logger.info("no second opinion on the golden probes: %s", e)
        return None
    return gap if math.isfinite(gap) else None


def _for_the_reference(data: bytes) -> Any:
    """The model, with batch normalisation of a version that the reference implementation computes as inference does."""
    model = onnx.load_from_string(data)
    for item in model.opset_import:
        if (
            not item.domain
            and item.version <= _OLD_BATCH_NORM
            and any(is_standard(node, "BatchNormalization") for node in all_nodes(model.graph))
        ):
            item.version = _NEW_BATCH_NORM
    return model
