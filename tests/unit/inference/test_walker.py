"""The walker refuses what could make a runtime run more than the hashed bytes, and takes ordinary models."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import VerificationError
from device_client.inference.walker import CheckedModel, ValueSpec, check_model
from device_client.limits import Limits
from tests.unit.inference import models
from tests.unit.inference.wire import field, varint

GOOD = models.linear().SerializeToString()


def refused(data: bytes, code: str, **kwargs: object) -> None:
    with pytest.raises(VerificationError) as caught:
        check_model(data, **kwargs)  # type: ignore[arg-type]
    assert caught.value.code == code, str(caught.value)


def test_an_ordinary_model_is_taken_with_its_inputs_outputs_and_opset() -> None:
    model = check_model(GOOD)
    assert model.data is GOOD
    assert model.opset == models.OPSET
    assert model.inputs == (ValueSpec("x", "float32", ("N", 3)),)
    assert model.outputs == (ValueSpec("y", "float32", ("N", 3)),)


def test_a_checked_model_cannot_be_made_without_the_walker() -> None:
    good = check_model(GOOD)
    with pytest.raises(TypeError):
        CheckedModel(b"x", good.digest, 17, (), ())


def test_bytes_that_could_change_after_the_check_are_not_taken() -> None:
    with pytest.raises(TypeError):
        check_model(bytearray(GOOD))  # type: ignore[arg-type]


def test_real_models_are_taken() -> None:
    folder = os.environ.get("SEALIFT_DATA")
    if not folder:
        pytest.skip("SEALIFT_DATA is not set")
    for path in sorted(Path(folder).glob("models-*/*.onnx")):
        check_model(path.read_bytes(), features=("control-flow:If",), where=path.name)


@pytest.mark.parametrize("dtype", sorted(set(TensorProto.DataType.values()) - {0, 27, 28}))
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_every_listed_type_are_measured_right(dtype: int, raw: bool) -> None:
    if dtype == TensorProto.STRING:
        if raw:
            pytest.skip("strings have no raw form")
        tensor = helper.make_tensor("w", dtype, [3], [b"a", b"b", b"c"])
    elif raw:
        bits = {TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128, TensorProto.DOUBLE: 64}.get(dtype)
        bits = bits or 8 * np.dtype(helper.tensor_dtype_to_np_dtype(dtype)).itemsize
        name = TensorProto.DataType.Name(dtype)
        bits = 4 if "INT4" in name or "FLOAT4" in name else 2 if "INT2" in name else bits
        tensor = TensorProto(name="w", data_type=dtype, dims=[5], raw_data=bytes(-(-5 * bits // 8)))
    else:
        tensor = helper.make_tensor("w", dtype, [5], [1] * 5)
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    check_model(models.model([node]).SerializeToString())


def sparse_initialiser(values: onnx.TensorProto, dims: tuple[int, ...] = (3,)) -> onnx.ModelProto:
    model = models.linear()
    model.graph.sparse_initializer.append(models.sparse(values, dims=dims))
    return model


def with_function(node: onnx.NodeProto, *, domain: str = "local") -> onnx.ModelProto:
    model = models.linear()
    model.functions.append(helper.make_function(domain, "F", ["a"], ["b"], [node], [helper.make_opsetid("", models.OPSET)]))
    return model


def test_foreign_operator_domains_are_refused_unless_named() -> None:
    data = models.model(
        [helper.make_node("FusedGemm", ["x"], ["y"], domain="com.microsoft")], opsets=[helper.make_opsetid("com.microsoft", 1)]
    ).SerializeToString()
    refused(data, "model_domain")
    refused(data, "model_domain", features=("domain:ai.onnx.ml",))
    assert check_model(data, features=("domain:com.microsoft",)).opset == models.OPSET


def test_a_foreign_domain_in_a_subgraph_or_function_is_refused() -> None:
    nested = models.conditional(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    nested.graph.node[0].attribute[0].g.node[0].domain = "evil"
    refused(nested.SerializeToString(), "model_domain", features=("control-flow:If",))
    refused(with_function(helper.make_node("Relu", ["a"], ["b"], domain="evil")).SerializeToString(), "model_domain")
    refused(with_function(helper.make_node("Relu", ["a"], ["b"]), domain="evil").SerializeToString(), "model_domain")
    refused(with_function(helper.make_node("Neg", ["a"], ["b"]), domain="").SerializeToString(), "model_domain")


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan", "SequenceMap"])
def test_control_flow_is_refused_unless_named(operator: str) -> None:
    body = models.branch(numpy_helper.from_array(np.ones(3, np.float32), "w"), output="b")
    data = models.model([helper.make_node(operator, ["x"], ["y"], body=body)]).SerializeToString()
    refused(data, "model_control_flow")
    check_model(data, features=(f"control-flow:{operator}",))


def test_a_subgraph_under_any_operator_counts_as_control_flow() -> None:
    body = models.branch(numpy_helper.from_array(np.ones(3, np.float32), "w"), output="b")
    refused(models.model([helper.make_node("Relu", ["x"], ["y"], body=body)]).SerializeToString(), "model_control_flow")
    refused(models.model([helper.make_node("Relu", ["x"], ["y"], bodies=[body])]).SerializeToString(), "model_control_flow")


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan", "SequenceMap"])
def test_control_flow_counts_by_its_name_where_its_subgraph_is_an_argument_of_a_function(operator: str) -> None:
    node = helper.make_node(operator, ["a"], ["b"])
    node.attribute.add(name="body", ref_attr_name="v", type=onnx.AttributeProto.GRAPH)
    refused(with_function(node).SerializeToString(), "model_control_flow", features=("domain:local",))


def test_a_loop_of_two_to_the_62_is_refused_unless_loops_are_named() -> None:
    trips = helper.make_tensor("m", TensorProto.INT64, [], [2**62])
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 3]),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), helper.make_tensor_value_info("w", TensorProto.FLOAT, ["N", 3])],
    )
    data = models.model([helper.make_node("Loop", ["m", "", "x"], ["y"], body=body)], initializers=[trips]).SerializeToString()
    refused(data, "model_control_flow")


def test_a_file_that_is_also_an_ort_model_is_refused() -> None:
    # Bytes 4 to 8 sit inside an unread string, so an ONNX parser takes the file for an ordinary model. One that the
    # runtime really loads as its own format is in test_polyglot.py.
    polyglot = field(2, b"\x00\x00ORTM" + b"p" * 20) + GOOD
    assert polyglot[4:8] == b"ORTM"
    onnx.load_from_string(polyglot)
    refused(polyglot, "model_ortm")


def test_a_repeated_graph_is_refused() -> None:
    extra = models.linear(scale=9.0).graph.SerializeToString()
    refused(GOOD + field(7, extra), "model_field_repeated")


def test_any_repeated_singular_field_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"]).SerializeToString() + field(4, b"Sigmoid")
    data = field(7, field(1, node)) + field(8, varint(2 << 3) + varint(17))
    refused(data, "model_field_repeated")
    refused(GOOD + varint(1 << 3) + varint(9), "model_field_repeated")


def test_an_operator_set_imported_twice_is_refused() -> None:
    refused(models.model([], opsets=[helper.make_opsetid("ai.onnx", 9)]).SerializeToString(), "model_field_repeated")


def test_two_weights_of_one_name_are_found_wherever_they_stand() -> None:
    weights = [numpy_helper.from_array(np.ones(3, np.float32), name) for name in ("w", "v", "u", "t", "w")]
    refused(models.model([helper.make_node("Mul", ["x", "w"], ["y"])], initializers=weights).SerializeToString(), "model_ambiguous")
    nested = models.conditional(weights[0])
    nested.graph.node[0].attribute[0].g.initializer.extend(weights[1:])
    refused(nested.SerializeToString(), "model_ambiguous", features=("control-flow:If",))


def test_a_function_with_two_values_of_one_name_is_refused() -> None:
    for second in ("a", "b"):
        model = with_function(helper.make_node("Neg", ["a"], ["b"]))
        check_model(model.SerializeToString(), features=("domain:local",))
        model.functions[0].node.append(helper.make_node("Abs", ["a"], [second]))
        refused(model.SerializeToString(), "model_ambiguous", features=("domain:local",))


def test_outputs_that_nobody_wants_need_no_names() -> None:
    nodes = [helper.make_node("Dropout", [a], [b, ""]) for a, b in (("x", "h"), ("h", "y"))]
    check_model(models.model(nodes).SerializeToString())


def test_an_attribute_that_refers_to_one_of_its_function_has_no_value_of_its_own() -> None:
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.add(name="alpha", ref_attr_name="v", type=onnx.AttributeProto.FLOAT)
    check_model(with_function(node).SerializeToString(), features=("domain:local",))
    node.attribute[0].f = 2.0
    refused(with_function(node).SerializeToString(), "model_ambiguous", features=("domain:local",))


def test_versions_beyond_31_bits_are_refused() -> None:
    model = models.linear()
    model.ir_version = model.opset_import[0].version = 2**31 - 1
    check_model(model.SerializeToString())
    for name, holder in (("ir_version", model), ("version", model.opset_import[0])):
        setattr(holder, name, 2**31)
        refused(model.SerializeToString(), "model_syntax")
        setattr(holder, name, 8)


@pytest.mark.parametrize("number", [9, 20, 26, 99, 2**29 - 1])
def test_unknown_fields_are_refused(number: int) -> None:
    refused(GOOD + field(number, b"abc"), "model_field_unknown")


def test_unlisted_fields_inside_a_tensor_are_refused() -> None:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "w")
    tensor.segment.begin = 1
    data = models.model([helper.make_node("Mul", ["x", "w"], ["y"])], initializers=[tensor]).SerializeToString()
    refused(data, "model_field_unknown")


SYNTAX = {
    "truncated": GOOD[:-1],
    "trailing zero": GOOD + b"\x00",
    "trailing text": GOOD + b"garbage",
    "group start": GOOD + varint(14 << 3 | 3),
    "group end": GOOD + varint(14 << 3 | 4),
    "wire type six": GOOD + varint(2 << 3 | 6),
    "unfinished number": GOOD + b"\x80",
    "number longer than needed": GOOD + varint(5 << 3) + b"\x81\x00",
    "number beyond 64 bits": GOOD + varint(5 << 3) + b"\xff" * 9 + b"\x7f",
    "length beyond the end": GOOD + varint(6 << 3 | 2) + varint(2**62) + b"x",
    "wrong wire type": GOOD + varint(6 << 3) + b"\x01",
    "name that is not UTF-8": field(7, field(1, field(4, b"\xff\xfe"))) + field(8, b"\x10\x11"),
    "weight's name that is not UTF-8": field(7, field(5, b"\x08\x00\x10\x01" + field(8, b"\xff"))) + field(8, b"\x10\x11"),
    "output's name that is not UTF-8": field(7, field(1, field(2, b"\xff"))) + field(8, b"\x10\x11"),
    "packed number cut off": field(7, field(5, field(7, b"\x80"))) + field(8, b"\x10\x11"),
    "packed number too long": field(7, field(5, field(7, b"\x80" * 10 + b"\x01"))) + field(8, b"\x10\x11"),
    "a float cut off": field(7, field(1, field(5, b"\x15\x00\x00"))) + field(8, b"\x10\x11"),
    "packed floats cut off": field(7, field(5, field(4, b"abc"))) + field(8, b"\x10\x11"),
}


@pytest.mark.parametrize("data", SYNTAX.values(), ids=SYNTAX.keys())
def test_broken_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        check_model(data)
    assert caught.value.code in {"model_syntax", "model_field_unknown"}


@pytest.mark.parametrize("data", [b"", field(2, b"x"), models.linear().graph.SerializeToString()[:0] + field(7, b"")])
def test_an_incomplete_model_is_refused(data: bytes) -> None:
    refused(data, "model_incomplete")


def test_excess_nesting_is_refused() -> None:
    graph = b""
    for _ in range(200):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    refused(field(7, graph) + field(8, b"\x10\x11"), "model_too_deep", features=("control-flow:If",))
    kind = b""
    for _ in range(5000):
        kind = field(4, field(1, kind))
    refused(field(7, field(11, field(2, kind))) + field(8, b"\x10\x11"), "model_too_deep")


def test_nesting_counts_for_an_attribute_that_was_seen_before() -> None:
    # Short attributes are walked once; where they stand must not be forgotten over that.
    leaf = field(5, field(1, b"a") + varint(20 << 3) + b"\x02" + varint(3 << 3) + b"\x01")
    inner = field(5, field(6, b"") + varint(20 << 3) + b"\x05")
    for attribute, levels in ((leaf, 5), (inner, 6)):
        node = field(1, field(4, b"If") + attribute)
        deeper = field(1, field(4, b"If") + field(5, field(6, node) + varint(20 << 3) + b"\x05"))
        data = field(7, node + deeper) + field(8, b"\x10\x11")
        check_model(data, features=("control-flow:If",), limits=Limits(max_model_depth=7))
        refused(data, "model_too_deep", features=("control-flow:If",), limits=Limits(max_model_depth=levels))


def test_a_type_of_two_kinds_is_refused() -> None:
    kinds = field(1, varint(1 << 3) + b"\x01") + field(4, field(1, b""))
    refused(field(7, field(11, field(1, b"x") + field(2, kinds))) + field(8, b"\x10\x11"), "model_field_repeated")


def test_a_dimension_beyond_31_bits_is_refused_even_where_the_bytes_would_do() -> None:
    model = models.linear()
    model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.UINT8, [2**31]))
    refused(model.SerializeToString(), "model_dims")
    model.graph.value_info[0].type.tensor_type.shape.dim[0].dim_value = 2**31 - 1
    check_model(model.SerializeToString())


def tensor_model(**kwargs: object) -> bytes:
    tensor = TensorProto(name="w", **kwargs)  # type: ignore[arg-type]
    return models.model([helper.make_node("Mul", ["x", "w"], ["y"])], initializers=[tensor]).SerializeToString()


OVERSIZED = {
    "one huge dimension": [2**40],
    "a negative dimension": [-1],
    "a product beyond 64 bits": [2**31 - 1] * 4,
    "a product beyond the bound": [2**20, 2**20],
    "an overflow behind a zero": [2**31 - 1, 2**31 - 1, 0],
    "too many dimensions": [1] * 40,
}


@pytest.mark.parametrize("dims", OVERSIZED.values(), ids=OVERSIZED.keys())
def test_oversized_dimensions_are_refused(dims: list[int]) -> None:
    refused(tensor_model(data_type=1, dims=dims, raw_data=b"1234"), "model_dims")
    declared = models.linear()
    declared.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, dims))
    refused(declared.SerializeToString(), "model_dims")


def test_sparse_tensors_are_refused() -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    refused(sparse_initialiser(values).SerializeToString(), "model_sparse")
    node = helper.make_node("Constant", [], ["y"], sparse_value=models.sparse(values))
    refused(models.model([node]).SerializeToString(), "model_sparse")


LENGTHS: dict[str, dict[str, object]] = {
    "too little raw data": {"data_type": 1, "dims": [3], "raw_data": b"1234"},
    "too much raw data": {"data_type": 1, "dims": [1], "raw_data": b"12345678"},
    "no data": {"data_type": 1, "dims": [3]},
    "data for no elements": {"data_type": 1, "dims": [0], "raw_data": b"1234"},
    "too few typed values": {"data_type": 1, "dims": [3], "float_data": [1.0]},
    "both forms": {"data_type": 1, "dims": [1], "float_data": [1.0], "raw_data": b"1234"},
    "the wrong typed field": {"data_type": 1, "dims": [1], "int32_data": [1]},
    "raw strings": {"data_type": 8, "dims": [1], "raw_data": b"1"},
}


@pytest.mark.parametrize("tensor", LENGTHS.values(), ids=LENGTHS.keys())
def test_data_that_does_not_match_the_dimensions_is_refused(tensor: dict[str, object]) -> None:
    refused(tensor_model(**tensor), "model_data_length")


@pytest.mark.parametrize("data_type", [0, 29, 1000])
def test_unknown_element_types_are_refused(data_type: int) -> None:
    refused(tensor_model(data_type=data_type, dims=[0]), "model_dtype")


def test_a_model_beyond_the_size_bound_or_with_too_many_fields_is_refused() -> None:
    refused(GOOD, "model_too_large", limits=Limits(max_model_bytes=len(GOOD) - 1))
    refused(GOOD, "model_too_large", limits=Limits(max_model_fields=10))


def test_initialised_inputs_need_no_value_from_the_caller() -> None:
    model = models.linear()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    assert [spec.name for spec in check_model(model.SerializeToString()).inputs] == ["x"]


def test_an_error_names_the_file_the_message_and_the_byte() -> None:
    with pytest.raises(VerificationError, match=r"m\.onnx: graph\.initializer near byte \d+"):
        check_model(tensor_model(data_type=1, dims=[3]), where="m.onnx")


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_do_more_than_refuse(data: bytes) -> None:
    with pytest.raises(VerificationError):
        check_model(data)


SEEDS = [
    GOOD,
    models.conditional(numpy_helper.from_array(np.ones(3, np.float32), "w")).SerializeToString(),
    sparse_initialiser(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])).SerializeToString(),
]


@given(st.sampled_from(SEEDS), st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=400, deadline=None)
def test_mutated_models_are_taken_or_refused_and_nothing_else(seed: bytes, state: int, edits: int) -> None:
    rng = random.Random(state)
    data = bytearray(seed)
    for _ in range(edits):
        at = rng.randrange(len(data))
        choice = rng.randrange(3)
        if choice == 0:
            data[at] = rng.randrange(256)
        elif choice == 1:
            del data[at : at + rng.randrange(1, 5)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 5))
        if not data:
            break
    try:
        check_model(bytes(data), features=("control-flow:If",))
    except VerificationError:
        return


def test_packed_integers_are_read_byte_by_byte_up_to_a_bound_over_the_whole_file() -> None:
    # 300 numbers of ten bytes in two tensors: the bound is on their bytes, over all tensors of the file.
    model = onnx.load_from_string(GOOD)
    for name in ("p", "q"):
        model.graph.initializer.add(name=name, data_type=7, dims=[150], int64_data=[-1] * 150)
    data = model.SerializeToString()
    check_model(data, limits=Limits(max_model_varint_bytes=3000))
    refused(data, "model_packed", limits=Limits(max_model_varint_bytes=2999))
