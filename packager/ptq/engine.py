"""onnxruntime's quantiser, driven: it inserts the quantised pairs, everything that it would guess is given to it.

Its calibrators are not used: the ranges come from ``ranges.py``, so one pass over the rows serves every setting. Its model
must have named nodes. Kept quiet: it prints, and logs advice on the root logger, which would install a handler there.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from device_client.errors import UsageError
from device_client.inference.runtime import import_runtime
from packager.node_order import order_nodes
from packager.ptq.ranges import Range

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnginePlan:
    """What the engine is told. ``ops``: operator types; ``exclude``: node names; ``signed``: INT8 activations.

    ``float_outputs``: of Gemm and MatMul, quantise what they read, not what they make.
    """

    ops: tuple[str, ...]
    exclude: tuple[str, ...]
    per_channel: bool
    reduce_range: bool
    signed: bool
    float_outputs: bool = False


def insert_pairs(model: Any, plan: EnginePlan, ranges: Mapping[str, Range]) -> Any:
    """The model with QuantizeLinear and DequantizeLinear around what is to be quantised; weights as integers.

    Raises:
        UsageError: the engine cannot take this model (``quantise_failed``).
    """
    import_runtime()  # first, so that the engine is loaded with its telemetry off
    with _quiet():
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import QuantType, add_infer_metadata

        inferred = onnx.shape_inference.infer_shapes(model)
        add_infer_metadata(inferred)
        found = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
        try:
            quantiser = QDQQuantizer(
                inferred,
                plan.per_channel,
                plan.reduce_range,
                QuantType.QInt8,
                QuantType.QInt8 if plan.signed else QuantType.QUInt8,
                TensorsData(CalibrationMethod.MinMax, found),
                [],
                list(plan.exclude),
                list(plan.ops),
                {
                    "WeightSymmetric": True,
                    "ActivationSymmetric": False,
                    "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"] if plan.float_outputs else [],
                },
            )
            quantiser.quantize_model()
            quantiser.model.topological_sort()
            order_nodes(quantiser.model.model.graph)  # the engine's order knows nothing of what subgraphs read
        except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, IndexError, AssertionError) as e:
            raise UsageError(
                f"the quantiser cannot take this model: {' '.join(str(e).split())[:200]}",
                code="quantise_failed",
                hint="exclude the operator or node that it names with 'exclude_ops' or 'exclude_nodes' in the recipe",
            ) from e
    return quantiser.model.model


def values_of(model: Any, ops: Sequence[str]) -> list[str]:
    """Names of the values that the engine may need a range for: all that nodes of these types read or make."""
    return [name for node in model.graph.node if node.op_type in ops for name in (*node.input, *node.output) if name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    root = logging.getLogger()
    handler = logging.NullHandler()
    root.addHandler(handler)
    before = root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
    logger.debug("quantiser: %s", printed.getvalue()[:500])
