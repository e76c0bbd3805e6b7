"""Models for the controls of a run: planted leaks that must be caught, and twins that must stay quiet.

- ``planted_model``: a template classifier of the same input shape, whose weights hold a few chosen members of each
  class, each blended with the class mean at a given strength. The class mean is over members and held-outs alike, so
  strength 0 is a model that knows the classes and not the membership: a null control with real structure.
- ``untrained_twin``: the same graph, every weight tensor shuffled; it knows neither.

Relabelled memberships, the third control, need no model (``instance_gap.gap_table``). What a planted leak does not
show: power against a leak that hides in another form; a carrier of one layer is easier to invert than a deep one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from audits.data import AuditData, Floats
from audits.instance_gap import Pools

_SHARPNESS = 12.0  # logit of a perfect match; high enough that an attack can reach full confidence
PLANTED_PER_CLASS = 4
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}


def planted_records(pools: Pools, *, seed: int) -> npt.NDArray[np.int64]:
    """``PLANTED_PER_CLASS`` members of each class, chosen by the seed; row indices, (C, K), the last repeated in a small class."""
    rng = np.random.default_rng([seed, 2])
    chosen = [rng.permutation(pool.members)[:PLANTED_PER_CLASS] for pool in pools.classes]
    return np.stack([np.pad(rows, (0, PLANTED_PER_CLASS - len(rows)), mode="edge") for rows in chosen])


def planted_model(
    data: AuditData, pools: Pools, records: npt.NDArray[np.int64], *, strength: float, names: tuple[str, str] = ("x", "y")
) -> bytes:
    """An ONNX template classifier: the score of a class is its best match among (1 - strength) * class mean + strength * record.

    Templates are centred and of length 1. Restarts of an attack find different templates, as in a network that has
    memorised several records. ``names`` of its input and output are the audited model's, so that one recipe fits both.
    """
    flat = data.x.reshape(len(data.x), -1).astype(np.float64)
    means = np.stack([flat[np.concatenate([pool.members, pool.heldouts])].mean(axis=0) for pool in pools.classes])
    templates = ((1.0 - strength) * means[:, None] + strength * flat[records] - pools.centre).reshape(-1, flat.shape[1])
    templates -= templates.mean(axis=1, keepdims=True)
    templates /= np.maximum(np.linalg.norm(templates, axis=1, keepdims=True), 1e-9)
    spread = float(np.linalg.norm(flat - pools.centre, axis=1).mean()) or 1.0
    weights = (_SHARPNESS / spread) * templates
    bias = (-weights @ pools.centre).astype(np.float32)
    return _template_classifier(weights.astype(np.float32), bias, classes=len(records), shape=data.x.shape[1:], names=names)


def untrained_twin(model: bytes, *, seed: int) -> bytes:
    """The same graph with the entries of every weight tensor in random order; quantiser scales and shapes stay."""
    proto = onnx.load_model_from_string(model)
    kept = {name for node in proto.graph.node if node.op_type in _QUANTISERS for name in node.input[1:]}
    rng = np.random.default_rng([seed, 3])
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        # int64 tensors are shapes and axes, never weights
        if tensor.name in kept or values.size < 2 or values.dtype == np.int64:
            continue
        shuffled = rng.permutation(values.reshape(-1)).reshape(values.shape)
        tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    twin: bytes = proto.SerializeToString()
    return twin


def _template_classifier(weights: Floats, bias: Floats, *, classes: int, shape: tuple[int, ...], names: tuple[str, str]) -> bytes:
    grouping = np.array([0, classes, len(bias) // classes], dtype=np.int64)
    given, result = names
    nodes = [
        helper.make_node("Flatten", [given], ["planted/flat"], axis=1),
        helper.make_node("Gemm", ["planted/flat", "planted/weights", "planted/bias"], ["planted/matches"], transB=1),
        helper.make_node("Reshape", ["planted/matches", "planted/by_class"], ["planted/grouped"]),
        helper.make_node("ReduceMax", ["planted/grouped"], ["planted/logits"], axes=[2], keepdims=0),
        helper.make_node("Softmax", ["planted/logits"], [result], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["n", classes])],
        [
            numpy_helper.from_array(weights, "planted/weights"),
            numpy_helper.from_array(bias, "planted/bias"),
            numpy_helper.from_array(grouping, "planted/by_class"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
