"""What inner values of a model are on given rows: the model runs with those values as its outputs, batch by batch.

The runtime is the one of the device. Values that nobody asked for are never computed twice: one pass serves all names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from device_client.inference.session import open_session
from packager.data import Dataset
from packager.features import check_own
from packager.feed import feed_rows, rows_per_run
from packager.ptq.graph import Array

BATCH_ROWS = 32


def float_values(model: onnx.ModelProto, names: Sequence[str]) -> tuple[str, ...]:
    """Those names whose value is FP32, as far as shape inference can tell; constants are left out."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    return tuple(
        name
        for name in dict.fromkeys(names)
        if name and name not in constants and types.get(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT
    )


def observe(model: onnx.ModelProto, names: Sequence[str], rows: Dataset) -> Iterator[dict[str, Array]]:
    """Yields the named FP32 values for each batch of rows, in order.

    Args:
        model: left as it is.
        names: of FP32 values of the main graph; a graph input is given back as it is.
        rows: what the model runs on.
    """
    inputs = {value.name for value in model.graph.input}
    inner = [name for name in names if name not in inputs]
    with open_session(check_own(_with_outputs(model, inner))) as session:
        batch = rows_per_run(session.inputs, rows.inputs, limit=BATCH_ROWS)
        for start in range(0, len(rows), batch):
            feeds = feed_rows(session.inputs, rows.inputs, start=start, count=min(batch, len(rows) - start))
            values = session.run(feeds) if inner else {}
            yield {name: feeds[name] if name in inputs else values[name] for name in names}


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if names:
        del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    data: bytes = copy.SerializeToString()
    return data
