"""The technique `codebook`: few values for each large tensor, the best ones, the same ones every time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from device_client.errors import UsageError
from device_client.inference.walker import check_model
from packager.clustering.assign import assign_rows, output_error
from packager.clustering.gram import measure_grams
from packager.clustering.layers import find_layers
from packager.clustering.levels import k_means, nearest_level, three_levels, two_levels
from packager.codebook import Codebook, cluster_weights
from packager.data import Dataset
from packager.encode.stored import store_model
from packager.evaluate import run_rows
from packager.features import check_own
from packager.ptq.static import Int8Static, quantise_int8_static
from packager.ptq.weight_only import WeightOnly
from packager.shrink import shrink_model
from packager.technique import TECHNIQUES, Compressed, TechniqueContext, TechniqueStep, apply_technique, read_technique
from packager.toml_table import TomlTable

from .models import convnet, graph, mlp, rows

RNG = np.random.default_rng(11)
PLAIN = Codebook(bits=2, min_elements=16, use_activations=False)
AWARE = Codebook(bits=2, min_elements=16)


def dataset(*shape: int) -> Dataset:
    return Dataset({"x": rows(40, shape)}, None, None, None, "test")


def tensor(data: bytes, name: str) -> NDArray[Any]:
    return next(numpy_helper.to_array(item) for item in onnx.load_from_string(data).graph.initializer if item.name == name)


def error_of(values: NDArray[Any], importance: NDArray[Any], levels: NDArray[Any]) -> float:
    return float((importance * (values - levels[nearest_level(values, levels)]) ** 2).sum())


def test_the_clusters_are_the_best_ones() -> None:
    """Against every way to cut ten sorted values into intervals."""
    values, importance = np.sort(RNG.standard_normal(10)), RNG.random(10) + 0.1
    for entries in (1, 2, 3, 4):
        best = np.inf
        for cuts in itertools.combinations(range(1, 10), entries - 1):
            parts = np.split(np.arange(10), cuts)
            means = np.array([np.average(values[part], weights=importance[part]) for part in parts])
            best = min(best, sum(float((importance[p] * (values[p] - m) ** 2).sum()) for p, m in zip(parts, means, strict=True)))
        levels = k_means(values, importance, entries)
        assert len(levels) == entries
        assert error_of(values, importance, levels) == pytest.approx(best)


def test_many_values_are_clustered_as_well_as_few() -> None:
    values = RNG.standard_normal(20_000)
    levels = k_means(values, np.ones(20_000), 4)
    assert error_of(values, np.ones(20_000), levels) / 20_000 == pytest.approx(0.1175, rel=0.03), "Max 1960, for a normal source"
    assert (np.diff(levels) > 0).all()


def test_fewer_distinct_values_than_entries_are_kept_as_they_are() -> None:
    assert k_means(np.array([3.0, 1.0, 1.0]), np.ones(3), 16).tolist() == [1.0, 3.0]


def test_three_and_two_levels_have_the_best_scale() -> None:
    values, importance = RNG.standard_normal(200), RNG.random(200)
    for make, zero in ((three_levels, True), (two_levels, False)):
        levels = make(values, importance)
        assert (0.0 in levels) == zero
        assert levels[-1] == -levels[0]
        found = error_of(values, importance, levels)
        for factor in (0.9, 0.97, 1.03, 1.1):
            assert error_of(values, importance, levels * factor) >= found


def test_compensation_beats_the_nearest_level_where_inputs_are_alike() -> None:
    mixed = RNG.standard_normal((20, 20)) @ RNG.standard_normal((20, 400))
    gram = (mixed @ mixed.T / 400)[None]
    weights, levels, ones = RNG.standard_normal((8, 20)), np.array([-1.0, 0.0, 1.0]), np.ones(8)
    plain, aware = (levels[assign_rows(weights, levels, ones, matrix)] for matrix in (None, gram))
    assert output_error(weights, aware, gram) < 0.7 * output_error(weights, plain, gram)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [2, 1], "pads": [1, 0, 2, 1]}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, {"auto_pad": "SAME_UPPER"}],
)
def test_the_gram_matrix_is_that_of_what_the_convolution_sees(attributes: dict[str, Any]) -> None:
    """A row's mean square output is ``w G w`` of its weights."""
    weight = RNG.standard_normal((6, 2, 3, 3))
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, name="c", **attributes)
    data = graph([node], {"w": weight}, x=["N", 4, 9, 9], y=["N", 6, "h", "v"])
    layers = find_layers(onnx.load_from_string(data), min_elements=8)
    calibration = dataset(4, 9, 9)
    gram = measure_grams(data, layers, calibration)["w"]
    outputs = run_rows(check_model(data), calibration)["y"].astype(np.float64)
    expected = (outputs**2).mean(axis=(0, 2, 3))
    found = [row @ gram[channel // 3] @ row for channel, row in enumerate(layers[0].rows())]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("trans", [0, 1])
def test_channels_of_a_gemm_are_its_outputs_either_way(trans: int) -> None:
    weight = RNG.standard_normal((5, 8) if trans else (8, 5))
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=trans)
    layers = find_layers(onnx.load_from_string(graph([node], {"w": weight}, x=["N", 8], y=["N", 5])), min_elements=8)
    assert layers[0].rows().shape == (5, 8)
    restored = layers[0].restored(layers[0].rows())
    np.testing.assert_array_equal(restored, weight.astype(np.float32))


@pytest.mark.parametrize("config", [PLAIN, AWARE, Codebook(levels="ternary", per_channel=True, min_elements=16)])
def test_large_tensors_take_few_values_and_small_ones_stay(config: Codebook) -> None:
    data = convnet()
    result = cluster_weights(data, config, dataset(1, 8, 8))
    for name in ("c1.weight", "c2.weight", "fc.weight"):
        values = tensor(result.data, name)
        most = 3 * len(values) if config.levels == "ternary" else 4
        assert len(np.unique(values)) <= most
        assert values.shape == tensor(data, name).shape
    np.testing.assert_array_equal(tensor(result.data, "c1.bias"), tensor(data, "c1.bias"))
    assert result.evidence["tensors"] == 3
    check_model(result.data)


def test_more_bits_and_activations_bring_the_outputs_nearer() -> None:
    data, calibration = mlp(features=24, hidden=64), dataset(24)
    reference = run_rows(check_model(data), calibration)["y"]

    def gap(config: Codebook) -> float:
        found = run_rows(check_model(cluster_weights(data, config, calibration).data), calibration)["y"]
        return float(((found - reference) ** 2).mean())

    assert gap(AWARE) < 0.8 * gap(PLAIN)
    assert gap(Codebook(bits=4, min_elements=16)) < 0.3 * gap(AWARE)


def test_int8_weights_keep_whole_levels_within_their_range_and_cost_half_as_much() -> None:
    calibration = dataset(64)
    data = quantise_int8_static(mlp(features=64, hidden=128), Int8Static(), calibration).data
    result = cluster_weights(data, Codebook(bits=3), calibration)
    before = {item.name: numpy_helper.to_array(item) for item in onnx.load_from_string(data).graph.initializer}
    changed = [name for name, array in before.items() if not np.array_equal(tensor(result.data, name), array)]
    assert len(changed) == 1, "the second layer is too small"
    clustered = tensor(result.data, changed[0])
    assert clustered.dtype == np.int8
    assert len(np.unique(clustered)) <= 8
    assert np.abs(clustered).max() <= np.abs(before[changed[0]]).max(), "as safe from saturation as before"
    assert len(store_model(result.data).data) < 0.65 * len(store_model(data).data)


FORMS = {
    "pairs": [TechniqueStep("int8-static", Int8Static())],
    "QLinear operators": [TechniqueStep("int8-static", Int8Static(format="qoperator"))],
    "widened weights": [TechniqueStep("weight-only", WeightOnly(min_elements=16))],
}


@pytest.mark.parametrize("steps", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize(("make", "shape"), [(convnet, (1, 8, 8)), (mlp, (6,))], ids=["convolutions", "products"])
def test_calibration_rows_help_in_every_form_that_weights_of_8_bits_have(
    make: Callable[[], bytes], shape: tuple[int, ...], steps: list[TechniqueStep]
) -> None:
    data = shrink_model(make())
    context = TechniqueContext(calibration=dataset(*shape))
    model = Compressed(data, "fp32")
    for step in steps:
        model = apply_technique(step, model, context)
    exact = run_rows(check_own(data), context.calibration)["y"]

    def error(config: Codebook) -> float:
        made = cluster_weights(model.data, config, context.calibration)
        if config.use_activations:
            seen = int(str(made.evidence["activations"]).split(" ")[0])
            assert seen == made.evidence["tensors"]  # no layer was left without its inputs
        return float(np.square(run_rows(check_own(made.data), context.calibration)["y"] - exact).mean())

    assert error(AWARE) < error(PLAIN)


def test_the_gram_matrix_of_bytes_is_that_of_the_numbers_that_they_stand_for() -> None:
    data = shrink_model(convnet())
    seen = Dataset({"x": rows(40, (1, 8, 8)) - np.float32(0.7)}, None, None, None, "test")  # zero is not the byte 0
    quantised = quantise_int8_static(data, Int8Static(format="qoperator"), seen).data
    exact, byte_wise = (_first_gram(model, seen) for model in (data, quantised))
    assert np.corrcoef(exact.ravel(), byte_wise.ravel())[0, 1] > 0.999  # the step of the input is a common factor


def _first_gram(data: bytes, seen: Dataset) -> NDArray[np.float64]:
    """Of the first convolution, which alone has one group of nine inputs."""
    layers = find_layers(onnx.load_from_string(data), min_elements=16)
    return next(gram for gram in measure_grams(data, layers, seen).values() if gram.shape == (1, 9, 9))


def test_three_values_for_each_channel_stay_three_bytes_through_int8() -> None:
    data, calibration = mlp(features=32, hidden=64), dataset(32)
    ternary = cluster_weights(data, Codebook(levels="ternary", per_channel=True), calibration).data
    quantised = onnx.load_from_string(quantise_int8_static(ternary, Int8Static(), calibration).data)
    weights = [numpy_helper.to_array(item) for item in quantised.graph.initializer if item.data_type == onnx.TensorProto.INT8]
    assert len(np.unique(max(weights, key=np.size))) == 3


def test_pruned_weights_stay_pruned() -> None:
    weight = RNG.standard_normal((64, 32)) * (RNG.random((64, 32)) < 0.3)
    data = graph([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": weight}, x=["N", 32], y=["N", 64])
    for config in (Codebook(bits=2), Codebook(bits=2, use_activations=False), Codebook(levels="ternary", per_channel=True)):
        found = tensor(cluster_weights(data, config, dataset(32)).data, "w")
        assert not found[weight == 0].any()
        assert len(np.unique(found)) <= (4 if config.levels == "k-means" else 3 * 64)


def test_the_same_bytes_every_time() -> None:
    data, calibration = convnet(), dataset(1, 8, 8)
    assert cluster_weights(data, AWARE, calibration) == cluster_weights(data, AWARE, calibration)


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (Codebook(min_elements=10_000), "codebook_nothing"),
        (Codebook(exclude=("nobody",), min_elements=16), "codebook_exclude"),
        (Codebook(exclude=("first.weight", "second.weight"), min_elements=16), "codebook_nothing"),
    ],
)
def test_settings_that_leave_nothing_to_do_are_refused(config: Codebook, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        cluster_weights(mlp(), config, dataset(6))
    assert caught.value.code == code


def test_a_tensor_that_two_nodes_share_is_clustered_once_and_without_activations() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    data = graph(nodes, {"w": RNG.standard_normal((8, 8))}, x=["N", 8], y=["N", 8])
    result = cluster_weights(data, AWARE, dataset(8))
    assert (result.evidence["tensors"], result.evidence["activations"]) == (1, "0 of 1 tensors")
    assert len(np.unique(tensor(result.data, "w"))) == 4


def test_a_recipe_names_it() -> None:
    step = read_technique(TomlTable({"name": "codebook", "bits": 3, "min_elements": 16}, where="r"))
    assert step.config == Codebook(bits=3, min_elements=16)
    made = apply_technique(step, Compressed(mlp(), "fp32"), TechniqueContext(dataset(6)))
    assert (made.precision, made.evidence[0]["technique"]) == ("fp32", "codebook")
    assert read_technique(TomlTable({"name": "codebook", "levels": "ternary"}, where="r")).config.per_channel
    with pytest.raises(UsageError):
        read_technique(TomlTable({"name": "codebook", "bits": 7}, where="r"))
    assert "codebook" in TECHNIQUES
