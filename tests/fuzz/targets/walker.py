"""``check_model``: the onnx package reads what is accepted, finds no reference to another file, and the same inputs.

onnx is not on a device; here it is the second reader that the walker must not disagree with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_client.inference.walker import CheckedModel, check_model
from tests.fuzz.protobuf_mutator import mutate_protobuf
from tests.fuzz.target import Finding, accepted, promise
from tests.unit.inference import models

MAX_BYTES = 16_384
FEATURES = ("control-flow:If", "control-flow:Loop", "control-flow:Scan", "domain:com.microsoft", "domain:ai.onnx.ml")
WORDS = (
    b"location", b"secret.bin", b"ORTM", b"com.microsoft", b"ai.onnx", b"ai.onnx.ml", b"If", b"Loop", b"Scan", b"Constant",
    b"\x08\x01", b"\x70\x01", b"\x6a\x02", b"\x3a\x00", b"\x42\x02\x10\x11", b"\xff" * 9 + b"\x01", b"\x80\x00", b"\x4a\x0c",
)  # fmt: skip


def fuzz_one(data: bytes) -> None:
    """See the module."""
    plain = accepted(lambda: check_model(data))
    model = accepted(lambda: check_model(data, features=FEATURES))
    promise(plain is None or model is not None, "a feature makes it refuse more")
    if model is not None:
        _compare(data, model, allowed=FEATURES)
    if plain is not None:
        _compare(data, plain, allowed=())


def _compare(data: bytes, model: CheckedModel, *, allowed: tuple[str, ...]) -> None:
    promise(model.data is data, "other bytes than were checked")
    promise(data[4:8] != b"ORTM", "a file of another format")
    try:
        found = onnx.load_model_from_string(data)
    except Exception as e:  # protobuf's own, which is not a dependency of ours to name
        raise Finding("accepted, but onnx cannot read it") from e
    for tensor in _of_type(found, "TensorProto"):
        promise(tensor.data_location == TensorProto.DEFAULT and not tensor.external_data, "data in another file")
    domains = {node.domain for node in (*_of_type(found, "NodeProto"), *_of_type(found, "FunctionProto"))}
    promise(all(name in {"", "ai.onnx"} or f"domain:{name}" in allowed for name in domains), "an operator domain that is not named")
    if not allowed:
        promise(not {node.op_type for node in _of_type(found, "NodeProto")} & {"If", "Loop", "Scan"}, "control flow")
    initialised = {tensor.name for tensor in found.graph.initializer}
    initialised |= {tensor.values.name for tensor in found.graph.sparse_initializer}
    names = tuple(value.name for value in found.graph.input if value.name not in initialised)
    promise(tuple(spec.name for spec in model.inputs) == names, "other inputs")
    promise(tuple(spec.name for spec in model.outputs) == tuple(value.name for value in found.graph.output), "other outputs")
    promise({entry.version for entry in found.opset_import if entry.domain in {"", "ai.onnx"}} == {model.opset}, "another opset")


def _of_type(message: Any, name: str) -> Iterator[Any]:
    """Every message of one type, at any depth."""
    waiting = [message]
    while waiting:
        at = waiting.pop()
        if at.DESCRIPTOR.name == name:
            yield at
        for field, value in at.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else list(value)


def seeds() -> Iterator[bytes]:
    """Small models of every construct, and those that really do what must be refused."""
    weights = numpy_helper.from_array(np.ones(3, np.float32), "w")
    mul = helper.make_node("Mul", ["x", "w"], ["y"])
    made: list[Callable[[], onnx.ModelProto]] = [
        models.linear,
        lambda: models.model([mul], initializers=[weights]),
        lambda: models.model([mul], initializers=[helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])]),
        lambda: models.model([helper.make_node("Constant", [], ["y"], value_strings=[b"a", b"b"])]),
        lambda: models.model([helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])]),
        lambda: models.model([helper.make_node("Constant", [], ["y"], sparse_value=models.sparse(weights))]),
        lambda: models.conditional(weights),
        lambda: models.model([mul], initializers=[models.external_tensor()]),
        lambda: models.conditional(models.external_tensor()),
        lambda: models.model([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")],
                             opsets=[helper.make_opsetid("com.microsoft", 1)]),
        _with_function,
        _with_metadata,
    ]  # fmt: skip
    for make in made:
        yield make().SerializeToString(deterministic=True)
    yield b"\x08\x08\x3a\x02ORTM"
    yield b""


def _with_function() -> onnx.ModelProto:
    model = models.linear()
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(
        helper.make_function("com.microsoft", "F", ["a"], ["b"], [node], [helper.make_opsetid("", models.OPSET)])
    )
    return model


def _with_metadata() -> onnx.ModelProto:
    model = models.linear()
    helper.set_model_props(model, {"ort_config": '{"session_options": {}}'})
    model.graph.value_info.append(helper.make_tensor_value_info("z", TensorProto.INT64, ["N", 3]))
    model.graph.doc_string = "text"
    return model


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes to fields of the message."""
    return mutate_protobuf(data, rng)
