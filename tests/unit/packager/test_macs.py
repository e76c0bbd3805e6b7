from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.data import Dataset
from packager.measure.workload import Workload, count_workload
from packager.ptq.static import Int8Static, quantise_int8_static

from .models import graph, mlp, rows

RNG = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return RNG.standard_normal(shape)


def counted(nodes: Sequence[Any], constants: Mapping[str, Any], *, x: Sequence[Any], y: Sequence[Any]) -> Workload:
    return count_workload(graph(nodes, constants, x=list(x), y=list(y)))


@pytest.mark.parametrize(
    ("nodes", "constants", "x", "y", "macs"),
    [
        pytest.param(
            [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
            {"w": weights(8, 3, 3, 3)},
            ("N", 3, 10, 12),
            ("N", 8, 10, 12),
            8 * 10 * 12 * 3 * 9,
            id="convolution: every output value sums over all input channels and taps",
        ),
        pytest.param(
            [helper.make_node("Conv", ["x", "w"], ["y"], group=6, strides=[2])],
            {"w": weights(6, 1, 5)},
            ("N", 6, 21),
            ("N", 6, 9),
            6 * 9 * 5,
            id="depthwise convolution in one dimension with stride",
        ),
        pytest.param(
            [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
            {"w": weights(4, 5, 2, 2)},
            ("N", 4, 3, 3),
            ("N", 5, 6, 6),
            4 * 9 * 5 * 4,
            id="transposed convolution: every input value is spread",
        ),
        pytest.param(
            [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
            {"w": weights(7, 11)},
            ("N", 11),
            ("N", 7),
            77,
            id="Gemm with transposed weights",
        ),
        pytest.param(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            {"w": weights(6, 4)},
            ("N", 5, 6),
            ("N", 5, 4),
            5 * 6 * 4,
            id="MatMul over a batch of rows",
        ),
        pytest.param(
            [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["x", "t"], ["y"])],
            {},
            ("N", 5, 6),
            ("N", 5, 5),
            5 * 5 * 6,
            id="MatMul of two activations",
        ),
        pytest.param(
            [helper.make_node("LSTM", ["x", "w", "r"], ["s"], hidden_size=3), helper.make_node("Squeeze", ["s", "axes"], ["y"])],
            {"w": weights(1, 12, 4), "r": weights(1, 12, 3), "axes": np.array([1])},
            (10, 1, 4),
            (10, 1, 3),
            10 * 12 * (4 + 3),
            id="LSTM: four gates of input and state, each step",
        ),
        pytest.param(
            [helper.make_node("GRU", ["x", "w", "r"], ["s"], hidden_size=3), helper.make_node("Squeeze", ["s", "axes"], ["y"])],
            {"w": weights(1, 9, 4), "r": weights(1, 9, 3), "axes": np.array([1])},
            (10, 1, 4),
            (10, 1, 3),
            10 * 9 * (4 + 3),
            id="GRU: three gates",
        ),
        pytest.param(
            [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik")],
            {"w": weights(6, 4)},
            ("N", 5, 6),
            ("N", 5, 4),
            5 * 6 * 4,
            id="Einsum: the product of its axes",
        ),
    ],
)
def test_multiply_accumulates_follow_from_the_shapes(
    nodes: Sequence[Any], constants: Mapping[str, Any], x: Sequence[Any], y: Sequence[Any], macs: int
) -> None:
    found = counted(nodes, constants, x=x, y=y)
    assert found.macs.total == macs
    assert found.macs.by_arithmetic == {"int8": 0, "fp16": 0, "fp32": macs}
    assert found.macs.uncounted == ()
    assert found.how == "inferred"


def test_element_wise_work_is_no_multiply_accumulate_but_is_counted_beside_them() -> None:
    found = counted([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Tanh", ["r"], ["y"])], {}, x=["N", 9], y=["N", 9])
    assert found.macs.total == 0
    assert found.other_elements["fp32"] == 18


def test_quantised_operators_count_as_int8_whether_written_as_pairs_or_not() -> None:
    data = mlp(features=24, hidden=16, classes=4)
    quantised = quantise_int8_static(data, Int8Static(), Dataset({"x": rows(40, (24,))}, None, None, None, "data")).data
    assert count_workload(quantised).macs.by_arithmetic == {"int8": 24 * 16 + 16 * 4, "fp16": 0, "fp32": 0}
    explicit = graph(
        [helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT8), helper.make_node("MatMulInteger", ["u", "w"], ["i"]),
         helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)],
        {"w": np.ones((6, 5), np.int8)}, x=["N", 6], y=["N", 5],
    )  # fmt: skip
    assert count_workload(explicit).macs.by_arithmetic["int8"] == 30


def test_half_precision_is_its_own_arithmetic() -> None:
    data = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(6, 4)}, x=["N", 6], y=["N", 4], dtype=TensorProto.FLOAT16
    )
    assert count_workload(data).macs.by_arithmetic == {"int8": 0, "fp16": 24, "fp32": 0}


def test_weights_alone_in_8_bits_leave_the_arithmetic_in_fp32() -> None:
    """A weight-only model multiplies in float after dequantising; calling that INT8 would halve its modelled energy."""
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    found = counted(nodes, {"q": np.ones((6, 5), np.int8), "s": np.float32(0.1)}, x=["N", 6], y=["N", 5])
    assert found.macs.by_arithmetic == {"int8": 0, "fp16": 0, "fp32": 30}


def test_activations_alone_in_8_bits_leave_the_arithmetic_in_fp32() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    found = counted(nodes, {"w": weights(6, 5), "s": np.float32(0.1)}, x=["N", 6], y=["N", 5])
    assert found.macs.by_arithmetic == {"int8": 0, "fp16": 0, "fp32": 30}


def test_a_runtime_operator_without_shape_inference_is_sized_by_running_it() -> None:
    """ONNX knows no shapes of the runtime's own operators; n-bit weights use one."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    from device_client.inference.runtime import import_runtime

    import_runtime()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = onnx.load_from_string(graph(nodes, {"w": weights(64, 32)}, x=["N", 64], y=["N", 32]))
    quantiser = MatMulNBitsQuantizer(model, bits=4, block_size=32)
    quantiser.process()
    found = count_workload(quantiser.model.model.SerializeToString())
    assert found.how == "run"
    assert found.macs.total == 64 * 32
    assert found.macs.by_arithmetic["fp32"] == 64 * 32


def test_of_a_conditional_the_branch_that_the_example_takes_is_counted() -> None:
    def branch(name: str, weight: Any) -> Any:
        tensor = numpy_helper.from_array(weight.astype(np.float32), f"{name}_w")
        node = helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"], name=name)
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out], initializer=[tensor])

    zero = numpy_helper.from_array(np.float32(0), "zero")
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branch("yes", weights(6, 4)), else_branch=branch("no", weights(6, 9))
        ),
    ]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], initializer=[zero],
    )  # fmt: skip
    data = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    assert count_workload(data, example={"x": np.ones((1, 6), np.float32)}).macs.total == 24
    assert count_workload(data, example={"x": -np.ones((1, 6), np.float32)}).macs.total == 54


def test_a_dynamic_axis_has_the_size_that_the_example_has() -> None:
    data = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(6, 4)}, x=["N", "T", 6], y=["N", "T", 4])
    assert count_workload(data, example={"x": np.zeros((3, 20, 6), np.float32)}).macs.total == 20 * 24
    assert count_workload(data).macs.total == 24


def test_an_operator_without_a_formula_is_listed_and_not_guessed() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="...i,ij->...j", name="odd")
    found = count_workload(graph([node], {"w": weights(6, 4)}, x=["N", 6], y=["N", 4]))
    assert found.macs.uncounted == ("odd",)


@pytest.mark.parametrize(
    ("name", "macs"),
    [("kws.onnx", 2_656_768), ("resnet8.onnx", 12_501_632), ("ad01.onnx", 264_192)],
)
def test_networks_of_a_public_benchmark_have_the_published_number(data_dir: Path, name: str, macs: int) -> None:
    """MLPerf Tiny gives 2.7, 12.5 and 0.26 million."""
    assert count_workload((data_dir / "models-mlperf-tiny" / name).read_bytes()).macs.total == macs
