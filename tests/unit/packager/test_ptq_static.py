from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from device_client.errors import UsageError
from device_client.inference.runtime import import_runtime
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from packager.contract_writer import requirements
from packager.data import Dataset
from packager.load import load_model
from packager.ptq.saturation import is_saturation_safe
from packager.ptq.static import Int8Static, quantise_int8_static

from .models import convnet, graph, mlp, op_types, rows, write


def dataset(x: Any) -> Dataset:
    return Dataset({"x": x}, None, None, None, "test")


def prepared(folder: Path, data: bytes) -> bytes:
    return load_model(write(folder, data), seed=0, example=dict).model.data


def run(data: bytes, x: Any) -> Any:
    with open_session(check_model(data)) as session:
        return session.run({"x": x})["y"]


def weights(data: bytes) -> list[Any]:
    return [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(data).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]


def fused_operators(data: bytes, folder: Path) -> set[str]:
    """What onnxruntime makes of the file when it loads it."""
    onnxruntime = import_runtime()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return set(op_types((folder / "optimised.onnx").read_bytes()))


@pytest.mark.parametrize(
    ("make", "shape"), [pytest.param(mlp, (6,), id="perceptron"), pytest.param(convnet, (1, 8, 8), id="convolutions")]
)
def test_the_variant_is_close_smaller_and_passes_the_walker_without_features(
    tmp_path: Path, make: Any, shape: tuple[int, ...]
) -> None:
    model = prepared(tmp_path, make())
    x = rows(64, shape)
    result = quantise_int8_static(model, Int8Static(), dataset(x))
    check_model(result.data, features=())
    assert {node.domain for node in onnx.load_from_string(result.data).graph.node} == {""}
    exact, approximate = run(model, x), run(result.data, x)
    assert np.abs(exact - approximate).max() < 0.06 * np.ptp(exact)
    assert not np.array_equal(exact, approximate)
    assert result.int8_weight_share == 1.0


def test_a_wide_network_becomes_more_than_three_times_smaller(tmp_path: Path) -> None:
    model = prepared(tmp_path, mlp(features=64, hidden=256, classes=10))
    assert len(model) / len(quantise_int8_static(model, Int8Static(), dataset(rows(32, (64,)))).data) > 3


@pytest.mark.parametrize(
    ("make", "shape", "wanted"),
    [pytest.param(mlp, (6,), "QGemm", id="Gemm"), pytest.param(convnet, (1, 8, 8), "QLinearConv", id="Conv")],
)
def test_the_runtime_fuses_the_variant_into_integer_kernels(tmp_path: Path, make: Any, shape: tuple[int, ...], wanted: str) -> None:
    result = quantise_int8_static(prepared(tmp_path, make()), Int8Static(), dataset(rows(16, shape)))
    found = fused_operators(result.data, tmp_path)
    assert wanted in found
    assert not found & {"Gemm", "Conv"}


def test_default_weights_cannot_saturate_on_any_x86_and_requires_says_so(tmp_path: Path) -> None:
    model = prepared(tmp_path, convnet())
    x = dataset(rows(16, (1, 8, 8)))
    safe = quantise_int8_static(model, Int8Static(), x).data
    full = quantise_int8_static(model, Int8Static(reduce_range=False), x).data
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights(safe)) <= 64
    assert is_saturation_safe(safe)
    assert requirements(check_model(safe)).arch == ()
    assert not is_saturation_safe(full)
    needs = requirements(check_model(full))
    assert (needs.arch, needs.cpu_features) == (("x86_64",), ("avx512_vnni",))


def test_quantising_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model, x = prepared(tmp_path, convnet()), dataset(rows(16, (1, 8, 8)))
    assert quantise_int8_static(model, Int8Static(), x).data == quantise_int8_static(model, Int8Static(), x).data


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_every_calibration_works_with_fixed_and_dynamic_batch(tmp_path: Path, method: str, batch: int | str) -> None:
    model = prepared(tmp_path, mlp(batch=batch))
    result = quantise_int8_static(model, Int8Static(calibration=method), dataset(rows(33)))
    assert np.isfinite(run(result.data, rows(1))).all()


def test_one_calibration_row_is_enough_to_run(tmp_path: Path) -> None:
    result = quantise_int8_static(prepared(tmp_path, mlp()), Int8Static(), dataset(rows(1)))
    assert np.isfinite(run(result.data, rows(3))).all()


def test_weights_shared_by_two_layers_stay_shared(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 6))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    model = prepared(tmp_path, graph(nodes, {"w": weight}, x=["N", 6], y=["N", 6]))
    result = quantise_int8_static(model, Int8Static(), dataset(rows(32)))
    assert len(weights(result.data)) == 1


def test_a_channel_of_zeros_gets_a_usable_scale(tmp_path: Path) -> None:
    model = onnx.load_from_string(mlp())
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor).copy()
    array[3] = 0
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    result = quantise_int8_static(prepared(tmp_path, model.SerializeToString()), Int8Static(), dataset(rows(32)))
    assert np.isfinite(run(result.data, rows(5))).all()


def test_a_huge_mask_constant_does_not_ruin_the_range(tmp_path: Path) -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((6, 6)), "mask": np.array([0, 0, 0, 0, 0, -1e9])}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),  # or the mask would be folded into a Gemm
        helper.make_node("Add", ["a", "mask"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    model = prepared(tmp_path, graph(nodes, constants, x=["N", 6], y=["N", 6]))
    result = quantise_int8_static(model, Int8Static(), dataset(rows(64)))
    assert np.abs(run(model, rows(64)) - run(result.data, rows(64))).max() < 0.05
    assert any("nodes left in FP32" in note for note in result.notes)


def test_attention_is_quantised_in_its_heavy_operators_only(tmp_path: Path) -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((6, 6)), "v": np.random.default_rng(1).standard_normal((6, 6))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["s"], axis=1),
        helper.make_node("MatMul", ["s", "v"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["y"]),
    ]
    model = prepared(tmp_path, graph(nodes, constants, x=["N", 6], y=["N", 6]))
    result = quantise_int8_static(model, Int8Static(), dataset(rows(32)))
    assert set(result.notes[0].removeprefix("operators: ").split(", ")) <= {"Gemm", "MatMul"}
    assert "Softmax" not in dict(result.quantised_ops)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    model = prepared(tmp_path, graph([helper.make_node("Relu", ["x"], ["y"])], {}, x=["N", 6], y=["N", 6]))
    with pytest.raises(UsageError) as caught:
        quantise_int8_static(model, Int8Static(), dataset(rows(8)))
    assert caught.value.code == "quantise_nothing"
    assert caught.value.hint


def test_a_product_of_two_inputs_changes_no_weight_and_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    model = prepared(tmp_path, graph(nodes, {}, x=[1, 6], y=[1, 1]))
    with pytest.raises(UsageError, match="changed no weight"):
        quantise_int8_static(model, Int8Static(), dataset(rows(8)))


def test_excluding_all_heavy_operators_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to quantise"):
        quantise_int8_static(prepared(tmp_path, mlp()), Int8Static(exclude_ops=("Gemm",)), dataset(rows(8)))


def test_the_engine_leaves_no_handler_on_the_root_logger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    before = list(logging.getLogger().handlers)
    quantise_int8_static(prepared(tmp_path, mlp()), Int8Static(calibration="entropy"), dataset(rows(8)))
    assert logging.getLogger().handlers == before
    assert capsys.readouterr().out == ""


def residual(*, channels: int = 8, uneven: bool = False) -> bytes:
    """x (N, 1, 8, 8) -> Conv -> Relu -> [Conv -> Relu -> Conv] + itself -> Relu -> pool -> Gemm -> y (N, 4)."""
    rng = np.random.default_rng(3)
    spread = np.logspace(0, 2, channels).reshape(-1, 1, 1, 1) if uneven else 1.0
    constants = {
        "w1": rng.standard_normal((channels, 1, 3, 3)) * spread,
        "w2": rng.standard_normal((channels, channels, 3, 3)) / 10 / (spread.reshape(1, -1, 1, 1) if uneven else 1.0),
        "w3": rng.standard_normal((channels, channels, 3, 3)) / 10 * spread,
        "w4": rng.standard_normal((4, channels)) / (spread.reshape(1, -1) if uneven else 1.0),
        "b": rng.standard_normal(channels) * np.ravel(spread),
        "b2": rng.standard_normal(channels),
        "b3": rng.standard_normal(channels) * np.ravel(spread) * 0.5,
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b"], ["h1"], **pads),
        helper.make_node("Relu", ["h1"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["h2"], **pads),
        helper.make_node("Relu", ["h2"], ["a2"]),
        helper.make_node("Conv", ["a2", "w3", "b3"], ["h3"], **pads),
        helper.make_node("Add", ["a1", "h3"], ["s"]),
        helper.make_node("Relu", ["s"], ["a3"]),
        helper.make_node("GlobalAveragePool", ["a3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w4"], ["y"], transB=1),
    ]
    return graph(nodes, constants, x=["N", 1, 8, 8], y=["N", 4])


def noise(exact: bytes, approximate: bytes, x: Any) -> float:
    """Mean squared error of the outputs as a share of their energy."""
    want, have = run(exact, x), run(approximate, x)
    return float(np.square(want - have).mean() / np.square(want).mean())


def test_the_short_form_computes_what_the_pairs_compute_in_fewer_bytes(tmp_path: Path) -> None:
    model, x = prepared(tmp_path, residual()), rows(32, (1, 8, 8))
    pairs = quantise_int8_static(model, Int8Static(), dataset(x))
    short = quantise_int8_static(model, Int8Static(format="qoperator"), dataset(x))
    assert np.array_equal(run(pairs.data, x), run(short.data, x))
    assert op_types(short.data).count("QLinearConv") == 3
    assert {node.domain for node in onnx.load_from_string(short.data).graph.node} == {""}
    check_model(short.data, features=())
    assert len(short.data) < len(pairs.data) - 500
    assert short.quantised_ops == pairs.quantised_ops
    assert is_saturation_safe(short.data)


def test_operators_that_move_values_work_on_the_integers_themselves(tmp_path: Path) -> None:
    constants = {
        "w": np.random.default_rng(0).standard_normal((4, 1, 3, 3)),
        "v": np.random.default_rng(1).standard_normal((3, 36)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("MaxPool", ["h"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1),
    ]
    model = prepared(tmp_path, graph(nodes, constants, x=["N", 1, 8, 8], y=["N", 3]))
    x = rows(8, (1, 8, 8))
    short = quantise_int8_static(model, Int8Static(format="qoperator"), dataset(x)).data
    types = op_types(short)
    assert types.index("QLinearConv") + 1 == types.index("MaxPool")
    assert types.count("DequantizeLinear") == 3  # of the Gemm's input and weight, and of the output
    assert noise(model, short, x) < 0.01


@pytest.mark.parametrize(
    "better",
    [
        pytest.param({"rounding": "gptq"}, id="gptq"),
        pytest.param({"bias_correction": True}, id="bias correction"),
        pytest.param({"rounding": "gptq", "bias_correction": True}, id="both"),
    ],
)
def test_the_output_is_closer_with(tmp_path: Path, better: dict[str, Any]) -> None:
    model, x = prepared(tmp_path, residual(channels=16)), rows(64, (1, 8, 8))
    plain = quantise_int8_static(model, Int8Static(), dataset(x)).data
    best = quantise_int8_static(model, Int8Static(**better), dataset(x))
    unseen = rows(64, (1, 8, 8), seed=9)
    assert noise(model, best.data, unseen) < 0.85 * noise(model, plain, unseen)
    assert len(best.data) == len(plain)
    assert is_saturation_safe(best.data)


def test_signed_activations_give_a_model_as_close(tmp_path: Path) -> None:
    model, x = prepared(tmp_path, residual()), rows(32, (1, 8, 8))
    signed = quantise_int8_static(model, Int8Static(activations="s8", format="qoperator"), dataset(x)).data
    zero_points = {tensor.data_type for tensor in onnx.load_from_string(signed).graph.initializer}
    assert onnx.TensorProto.UINT8 not in zero_points
    assert noise(model, signed, x) < 0.01


def test_a_node_named_in_the_recipe_stays_fp32(tmp_path: Path) -> None:
    model = prepared(tmp_path, residual())
    index = op_types(model).index("Conv")
    result = quantise_int8_static(model, Int8Static(exclude_nodes=(f"n{index}",)), dataset(rows(16, (1, 8, 8))))
    assert dict(result.quantised_ops)["Conv"] == 2
    assert any(
        tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4
        for tensor in onnx.load_from_string(result.data).graph.initializer
    )
    with pytest.raises(UsageError) as caught:
        quantise_int8_static(model, Int8Static(exclude_nodes=("n99",)), dataset(rows(16, (1, 8, 8))))
    assert caught.value.code == "quantise_node"


def test_float_outputs_leave_no_pair_after_a_product(tmp_path: Path) -> None:
    model, x = prepared(tmp_path, mlp()), rows(32)
    result = quantise_int8_static(model, Int8Static(float_outputs=True), dataset(x))
    assert op_types(result.data)[-1] == "Gemm"
    assert np.abs(run(model, x) - run(result.data, x)).max() < 0.06 * np.ptp(run(model, x))


@pytest.mark.parametrize("key", ["weight_bits = 8", "reduce_range = false"])
def test_a_recipe_can_name_the_bits_or_the_range(key: str) -> None:
    import tomllib

    from packager.toml_table import TomlTable

    assert Int8Static.from_toml(TomlTable(tomllib.loads(key), where="r")) == Int8Static(reduce_range=False)
