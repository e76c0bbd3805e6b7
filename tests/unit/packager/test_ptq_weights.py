"""Weights of fewer bits with FP32 arithmetic, half precision, and dynamic INT8."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import UsageError
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from packager.encode.stored import store_model
from packager.ptq.dynamic import Int8Dynamic, quantise_int8_dynamic
from packager.ptq.fp16 import Fp16, narrow_weights
from packager.ptq.saturation import is_saturation_safe
from packager.ptq.weight_only import WeightOnly, quantise_weights
from packager.toml_table import TomlTable

from .models import graph, mlp, op_types, rows
from .test_ptq_static import dataset, fused_operators, noise, prepared, residual, run


def wide(folder: Path) -> bytes:
    return prepared(folder, mlp(features=64, hidden=256, classes=10))


@pytest.mark.parametrize(
    ("bits", "block", "form", "allowed", "ratio"),
    [
        pytest.param(8, 0, "folded", 1e-4, 3.55, id="8 bits"),
        pytest.param(8, 32, "folded", 1e-4, 3.3, id="8 bits in blocks"),
        pytest.param(8, 0, "dequantise", 1e-4, 3.55, id="8 bits in pairs"),
        pytest.param(4, 0, "folded", 0.02, 6.0, id="4 bits"),
        pytest.param(4, 32, "folded", 0.02, 5.4, id="4 bits in blocks"),
        pytest.param(2, 16, "folded", 0.4, 6.5, id="2 bits in blocks"),
    ],
)
def test_the_weights_shrink_and_the_output_stays_close(
    tmp_path: Path, bits: int, block: int, form: str, allowed: float, ratio: float
) -> None:
    model, x = wide(tmp_path), rows(64, (64,))
    result = quantise_weights(model, WeightOnly(bits=bits, block=block, form=form), dataset(x))
    assert len(model) / len(result.data) > ratio
    assert 0 < noise(model, result.data, x) < allowed
    assert result.share == 1.0
    check_model(result.data, features=())


def test_bits_above_8_lower_the_error_and_are_about_what_the_bundle_stores(tmp_path: Path) -> None:
    model, x = wide(tmp_path), rows(64, (64,))
    made = {bits: quantise_weights(model, WeightOnly(bits=bits), dataset(x)).data for bits in (8, 9, 10, 11, 12)}
    errors = [noise(model, data, x) for data in made.values()]
    assert all(after < before for before, after in pairwise(errors))
    assert errors[-1] < errors[0] / 50  # a quarter for each bit, on average
    stored = {bits: len(store_model(data).data) for bits, data in made.items()}
    weights = 64 * 256 + 256 * 10
    assert all(bits - 1.5 < 8 * stored[bits] / weights < bits + 1.5 for bits in made)
    assert len({len(data) for bits, data in made.items() if bits > 8}) == 1  # INT16 in the file
    with pytest.raises(UsageError, match="no such form"):
        WeightOnly.from_toml(TomlTable({"bits": 10, "form": "dequantise"}, where="recipe"))


def test_the_runtime_folds_the_weights_when_it_loads_them(tmp_path: Path) -> None:
    result = quantise_weights(wide(tmp_path), WeightOnly(bits=4, block=32), dataset(rows(4, (64,))))
    assert fused_operators(result.data, tmp_path) <= {"Gemm", "Relu", "FusedGemm"}
    assert is_saturation_safe(result.data)


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_rounding_by_the_data_helps_at_four_bits(tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(0)
    model = wide(tmp_path)
    mixing = rng.standard_normal((8, 64))  # features that depend on each other
    x, unseen = ((rng.standard_normal((128, 8)) @ mixing).astype(np.float32) for _ in range(2))
    nearest = quantise_weights(model, WeightOnly(bits=4), dataset(x)).data
    better = quantise_weights(model, WeightOnly(bits=4, method=method), dataset(x)).data
    assert noise(model, better, unseen) < 0.6 * noise(model, nearest, unseen)


def test_products_with_four_bits_need_a_named_domain(tmp_path: Path) -> None:
    model, x = wide(tmp_path), rows(16, (64,))
    result = quantise_weights(model, WeightOnly(bits=4, block=32, form="matmulnbits"), dataset(x))
    assert result.features == ("domain:com.microsoft",)
    assert op_types(result.data).count("MatMulNBits") == 2
    with pytest.raises(Exception, match=r"com\.microsoft"):
        check_model(result.data, features=())
    with open_session(check_model(result.data, features=result.features)) as session:
        have = session.run({"x": x})["y"]
    assert np.square(have - run(model, x)).mean() < 0.05 * np.square(run(model, x)).mean()


def test_a_convolution_keeps_its_shape_in_four_bits(tmp_path: Path) -> None:
    model, x = prepared(tmp_path, residual(channels=16)), rows(16, (1, 8, 8))
    result = quantise_weights(model, WeightOnly(bits=4, block=16, method="gptq"), dataset(x))
    assert noise(model, result.data, x) < 0.02


def recurrent() -> bytes:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((1, 64, 6)) / 2, "r": rng.standard_normal((1, 64, 16)) / 4}
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=16), helper.make_node("Squeeze", ["h"], ["y"])]
    return graph(nodes, constants, x=[5, 3, 6], y=[3, 16])


def test_a_recurrent_layer_gets_a_step_per_row() -> None:
    model, x = recurrent(), rows(5, (3, 6)) - 0.5
    result = quantise_weights(model, WeightOnly(), dataset(x))
    assert result.tensors == 2
    assert 0 < noise(model, result.data, x) < 1e-4


def test_weights_inside_a_branch_are_encoded_too() -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32), "w")
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("product", "same")]
    then = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["product"])], "then", [], [outputs[0]], initializer=[weight])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["same"])], "else", [], [outputs[1]])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    model = graph(nodes, {"zero": np.array(0.0)}, x=["N", 16], y=["N", 16])
    result = quantise_weights(model, WeightOnly(), dataset(rows(4, (16,))))
    features = ("control-flow:If",)
    x = rows(4, (16,))
    with (
        open_session(check_model(model, features=features)) as one,
        open_session(check_model(result.data, features=features)) as two,
    ):
        want, have = one.run({"x": x})["y"], two.run({"x": x})["y"]
    assert 0 < np.abs(want - have).max() < 0.02 * np.abs(want).max()
    assert len(result.data) < len(model) - 500


def test_weights_that_are_read_in_two_ways_are_encoded_once_but_by_operators_that_read_integers() -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((16, 16)), "v": np.random.default_rng(1).standard_normal((16, 16))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["a"]),
        helper.make_node("MatMul", ["a", "v"], ["m"]),
        helper.make_node("Gemm", ["m", "w"], ["y"], transB=1),
    ]
    model = graph(nodes, {**constants, "bias": np.ones(16)}, x=["N", 16], y=["N", 16])
    for settings in (WeightOnly(), WeightOnly(bits=4, block=8, method="gptq")):
        assert quantise_weights(model, settings, dataset(rows(4, (16,)))).tensors == 2
    assert quantise_weights(model, WeightOnly(form="dequantise"), dataset(rows(4, (16,)))).tensors == 1
    encoded = quantise_weights(model, WeightOnly(), dataset(rows(4, (16,)))).data
    want, have = (run(data, rows(8, (16,))) for data in (model, encoded))
    assert np.abs(want - have).max() < 0.05 * np.abs(want).max()


def test_a_model_without_large_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        quantise_weights(prepared(tmp_path, mlp()), WeightOnly(), dataset(rows(4)))
    assert caught.value.code == "quantise_nothing"


def test_half_precision_halves_the_file_and_keeps_the_output(tmp_path: Path) -> None:
    model, x = wide(tmp_path), rows(32, (64,))
    result = narrow_weights(model, Fp16())
    assert len(model) / len(result.data) > 1.95
    assert 0 < noise(model, result.data, x) < 1e-6
    assert fused_operators(result.data, tmp_path) <= {"Gemm", "Relu", "FusedGemm"}


def test_a_mask_beyond_half_precision_stays_as_it_is() -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((16, 16)), "mask": np.triu(np.full((16, 16), -1e9), 1)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "mask"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    model = graph(nodes, constants, x=[16, 16], y=[16, 16])
    result = narrow_weights(model, Fp16())
    assert (result.narrowed, result.left) == (1, 1)
    assert np.abs(run(model, rows(16, (16,))) - run(result.data, rows(16, (16,)))).max() < 1e-2


def test_scales_of_quantised_pairs_are_not_narrowed(tmp_path: Path) -> None:
    from packager.ptq.static import Int8Static, quantise_int8_static

    model = wide(tmp_path)
    quantised = quantise_int8_static(model, Int8Static(), dataset(rows(32, (64,)))).data
    with pytest.raises(UsageError, match="FP16"):
        narrow_weights(quantised, Fp16())


def test_dynamic_products_become_one_operator_each(tmp_path: Path) -> None:
    model, x = wide(tmp_path), rows(32, (64,))
    result = quantise_int8_dynamic(model, Int8Dynamic())
    check_model(result.data, features=())
    assert len(result.nodes) == 2
    assert noise(model, result.data, x) < 1e-3
    assert is_saturation_safe(result.data)
    assert not is_saturation_safe(quantise_int8_dynamic(model, Int8Dynamic(reduce_range=False)).data)
    assert {"MatMulInteger", "MatMul", "Gemm"}.isdisjoint(fused_operators(result.data, tmp_path))


def test_dynamic_quantisation_leaves_convolutions_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        quantise_int8_dynamic(prepared(tmp_path, residual()), Int8Dynamic())
    assert caught.value.code == "quantise_nothing"


def test_products_of_one_value_share_its_quantised_form() -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((16, 16)), "v": rng.standard_normal((16, 16))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = graph(nodes, constants, x=["N", 16], y=["N", 16])
    assert op_types(quantise_int8_dynamic(model, Int8Dynamic()).data).count("DynamicQuantizeLinear") == 1


@pytest.mark.parametrize("config", [WeightOnly(bits=4, block=32, method="gptq"), WeightOnly(bits=2, block=16)])
def test_encoding_twice_gives_the_same_bytes(tmp_path: Path, config: Any) -> None:
    model, x = wide(tmp_path), dataset(rows(32, (64,)))
    assert quantise_weights(model, config, x).data == quantise_weights(model, config, x).data
