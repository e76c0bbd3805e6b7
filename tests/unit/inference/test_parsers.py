"""Where protobuf parsers, or readers of ONNX, could take one file for two models: each such file is shown to load, and refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import VerificationError
from device_client.inference.walker import check_model
from tests.unit.inference import models, wire
from tests.unit.inference.bare import bare
from tests.unit.inference.wire import field, number, tag, varint

GOOD = wire.model()
TWICE, NINEFOLD, NEGATED = [2.0, 4.0, 6.0], [9.0, 18.0, 27.0], [-1.0, -2.0, -3.0]
FEATURES = ("control-flow:If", "domain:local")


@dataclass(frozen=True)
class Case:
    """A file, what the bare runtime makes of [1, 2, 3] with it, and the code of our refusal."""

    data: bytes | Callable[[], onnx.ModelProto]
    row: list[float]
    code: str

    @property
    def file(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data().SerializeToString()


def weight(scale: float, name: str = "w") -> onnx.TensorProto:
    return numpy_helper.from_array(np.full(3, scale, np.float32), name)


MUL = helper.make_node("Mul", ["x", "w"], ["y"])


def sparse_and_dense() -> onnx.ModelProto:
    model = models.model([MUL], initializers=[weight(2)])
    model.graph.sparse_initializer.append(models.sparse(helper.make_tensor("w", TensorProto.FLOAT, [3], [9.0] * 3)))
    return model


def one_place_twice() -> onnx.ModelProto:
    """The runtime takes the second entry; others add the two up."""
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [5.0, 9.0])
    model = models.model([MUL])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, helper.make_tensor("i", 7, [2], [1, 1]), [3]))
    return model


def two_constants() -> onnx.ModelProto:
    """The runtime takes the one that comes first; others ask for ``value``."""
    node = helper.make_node("Constant", [], ["w"], value_floats=[9.0, 9.0, 9.0])
    node.attribute.append(helper.make_attribute("value", weight(2)))
    return models.model([node, MUL])


def two_typed_constant() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["w"], value=weight(2))
    node.attribute[0].floats.extend([9.0, 9.0, 9.0])
    return models.model([node, MUL])


def output_twice() -> onnx.ModelProto:
    model = models.model([MUL], initializers=[weight(2)])
    model.graph.output.append(model.graph.output[0])
    return model


def leaky(attribute_type: bytes) -> bytes:
    """y = LeakyRelu(-x) with an alpha of 2, and the attribute's type spelt by the caller."""
    alpha = field(1, b"alpha") + tag(2, wire.I32) + struct.pack("<f", 2.0) + attribute_type
    node = field(1, b"n") + field(2, b"y") + field(4, b"LeakyRelu") + field(5, alpha)
    return wire.model(nodes=(wire.node("Neg", ["x"], "n").SerializeToString(), node), weights=())


RELU = wire.node("Relu", ["x"], "y").SerializeToString()
WITHOUT_OPSET = GOOD[: -len(field(8, number(2, 17)))]

LOADED: dict[str, Case] = {
    # Readers of ONNX
    "two weights of one name": Case(lambda: models.model([MUL], initializers=[weight(2), weight(9)]), NINEFOLD, "model_ambiguous"),
    "a weight with the name of a node's output": Case(
        lambda: models.model([helper.make_node("Constant", [], ["w"], value=weight(9)), MUL], initializers=[weight(2)]),
        NINEFOLD,
        "model_ambiguous",
    ),
    "a dense and a sparse weight of one name": Case(sparse_and_dense, NINEFOLD, "model_sparse"),
    "a sparse weight with two entries for one place": Case(one_place_twice, [0.0, 18.0, 0.0], "model_sparse"),
    "a Constant with two values": Case(two_constants, NINEFOLD, "model_ambiguous"),
    "an attribute with two values": Case(two_typed_constant, TWICE, "model_ambiguous"),
    "an output twice": Case(output_twice, TWICE, "model_ambiguous"),
    # Last one wins, and merging
    "an operator's name twice": Case(wire.model(nodes=(RELU + field(4, b"Neg"),), weights=()), NEGATED, "model_field_repeated"),
    "a type of a weight twice": Case(wire.model(weights=(wire.weight(data_type=6) + number(2, 1),)), TWICE, "model_field_repeated"),
    "a weight's data twice": Case(
        wire.model(weights=(wire.weight() + field(9, struct.pack("<3f", 9, 9, 9)),)), NINEFOLD, "model_field_repeated"
    ),
    "a graph in two halves": Case(
        number(1, 8)
        + field(7, field(1, wire.MUL) + field(2, b"g"))
        + field(7, field(5, wire.weight()) + field(11, wire.value(b"x")) + field(12, wire.value(b"y")))
        + field(8, number(2, 17)),
        TWICE,
        "model_field_repeated",
    ),
    "two operator sets of one domain": Case(
        WITHOUT_OPSET + field(8, number(2, 17)) + field(8, field(1, b"ai.onnx") + number(2, 17)), TWICE, "model_field_repeated"
    ),
    "a dimension with a size and a name": Case(
        wire.model(x=field(1, b"x") + field(2, field(1, number(1, 1) + field(2, field(1, number(1, 7) + field(2, b"N")) * 2)))),
        TWICE,
        "model_field_repeated",
    ),
    # Numbers that some parsers cut off
    "a weight's type beyond 32 bits": Case(wire.model(weights=(wire.weight(data_type=2**32 + 1),)), TWICE, "model_dtype"),
    "an input's type beyond 32 bits": Case(wire.model(x=wire.value(b"x", element_type=2**32 + 1)), TWICE, "model_dtype"),
    "an attribute's type beyond 32 bits": Case(leaky(number(20, 2**32 + 1)), [-2.0, -4.0, -6.0], "model_ambiguous"),
    "an attribute's type, and then an unknown one": Case(
        leaky(number(20, 1) + number(20, 99)), [-2.0, -4.0, -6.0], "model_field_repeated"
    ),
    "a tag longer than needed": Case(b"\x88\x00\x08" + GOOD[2:], TWICE, "model_syntax"),
    "a number longer than needed": Case(GOOD + tag(5, wire.VARINT) + b"\x81\x00", TWICE, "model_syntax"),
    "a length longer than needed": Case(GOOD + tag(2, wire.LEN) + b"\x81\x00p", TWICE, "model_syntax"),
    "a number beyond 64 bits": Case(GOOD + tag(5, wire.VARINT) + b"\xff" * 9 + b"\x7f", TWICE, "model_syntax"),
    # What parsers skip
    "an unknown field": Case(GOOD + field(99, b"anything"), TWICE, "model_field_unknown"),
    "an unknown field in a weight": Case(wire.model(weights=(wire.weight() + field(50, b"x"),)), TWICE, "model_field_unknown"),
    "a group": Case(GOOD + tag(99, 3) + tag(99, 4), TWICE, "model_syntax"),
    "a known field of another wire type": Case(GOOD + number(7, 1), TWICE, "model_syntax"),
    "a huge type that nothing has": Case(
        lambda: hinted(helper.make_tensor_value_info("v", TensorProto.FLOAT, [2**40])), TWICE, "model_dims"
    ),
    "a negative version of the format": Case(number(1, 2**64 - 1) + GOOD[2:], TWICE, "model_syntax"),
}


def hinted(hint: onnx.ValueInfoProto) -> onnx.ModelProto:
    model = models.linear()
    model.graph.value_info.append(hint)
    return model


@pytest.mark.parametrize("case", LOADED.values(), ids=LOADED.keys())
def test_a_file_that_the_bare_runtime_loads_and_readers_could_differ_on_is_refused(case: Case) -> None:
    assert bare(case.file).row == case.row
    with pytest.raises(VerificationError) as caught:
        check_model(case.file, features=FEATURES)
    assert caught.value.code == case.code


def nested(levels: int) -> bytes:
    kind = b""
    for _ in range(levels):
        kind = field(4, field(1, kind))
    return field(7, field(11, field(2, kind))) + field(8, number(2, 17))


# What this runtime refuses as well. We do not lean on it.
NOT_LOADED: dict[str, tuple[bytes, str]] = {
    "types nested 10 000 deep": (nested(10_000), "model_too_deep"),
    "a number of eleven bytes": (GOOD + tag(5, wire.VARINT) + b"\xff" * 10 + b"\x01", "model_syntax"),
    "a truncated number": (GOOD + b"\x80", "model_syntax"),
    "a length beyond the end": (GOOD + tag(6, wire.LEN) + varint(2**62), "model_syntax"),
    "zero behind the end": (GOOD + b"\0", "model_syntax"),
    "the end of a group that never began": (GOOD + tag(99, 4), "model_syntax"),
    "wire type seven": (GOOD + tag(99, 7), "model_syntax"),
    "a packed number of eleven bytes": (
        wire.model(weights=(number(1, 1) + number(2, 7) + field(8, b"w") + field(7, b"\xff" * 10 + b"\x01"),)),
        "model_syntax",
    ),
    "a packed number without its end": (
        wire.model(weights=(number(1, 1) + number(2, 7) + field(8, b"w") + field(7, b"\xff"),)),
        "model_syntax",
    ),
    "a negative dimension": (wire.model(weights=(number(1, 2**64 - 3) + wire.weight()[2:],)), "model_dims"),
    "an overflow behind a zero": (
        wire.model(weights=(number(1, 2**31 - 1) * 3 + number(1, 0) + number(2, 1) + field(8, b"w") + field(9, b""),)),
        "model_dims",
    ),
    "less data than the dimensions say": (wire.model(weights=(number(1, 3000) + wire.weight()[2:],)), "model_data_length"),
}


@pytest.mark.parametrize(("data", "code"), NOT_LOADED.values(), ids=NOT_LOADED.keys())
def test_a_file_that_the_bare_runtime_refuses_too_is_refused_by_the_walker_first(data: bytes, code: str) -> None:
    assert bare(data).output is None
    with pytest.raises(VerificationError) as caught:
        check_model(data, features=FEATURES)
    assert caught.value.code == code


IGNORED: dict[str, Callable[[onnx.ModelProto], object]] = {
    "notes on the model": lambda m: m.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": 1}}'),
    "notes on the graph": lambda m: m.graph.metadata_props.add(key="ort_config", value="x"),
    "notes on a node": lambda m: m.graph.node[0].metadata_props.add(key="ep", value="CUDAExecutionProvider"),
    "notes on a weight": lambda m: m.graph.initializer[0].metadata_props.add(key="location", value="secret.bin"),
    "a quantisation annotation": lambda m: m.graph.quantization_annotation.add(tensor_name="w").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="x"
    ),
    "texts": lambda m: setattr(m, "doc_string", "\0\x1b[2J" * 1000),
}


@pytest.mark.parametrize("change", IGNORED.values(), ids=IGNORED.keys())
def test_what_is_taken_without_being_looked_at_changes_nothing(change: Callable[[onnx.ModelProto], object]) -> None:
    model = models.linear()
    change(model)
    data = model.SerializeToString()
    check_model(data)
    assert bare(data, default_options=True).row == TWICE
    assert bare(data, default_options=True).said["profiling"] is False


def test_an_error_shows_nothing_of_a_name_that_could_steer_a_terminal() -> None:
    data = models.model([helper.make_node("Re\x1b[2Jlu\n", ["x"], ["y"], domain="e\x1b[31mvil\u202e")]).SerializeToString()
    with pytest.raises(VerificationError) as caught:
        check_model(data)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
