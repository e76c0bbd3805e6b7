from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.bundle.contract import Tolerance
from device_client.bundle.digest import Digest
from device_client.errors import SelfTestError, UsageError
from device_client.inference.golden import compare, filler, parse_golden, record
from device_client.inference.session import open_session
from device_client.inference.walker import CheckedModel, check_model
from packager.golden import GoldenResult, GoldenVariant, build_golden
from packager.golden_plan import GoldenPlan
from packager.mutations import make_mutants
from packager.probe_search import WIDTH, SearchResult, search_steps, searches, seek_probe
from packager.probes import ProbeSpec, make_probes
from packager.ptq.static import Int8Static, quantise_int8_static
from packager.shrink import shrink_model
from packager.tolerance import choose_tolerance, output_step

from .models import convnet, graph, mlp, rows
from .test_ptq_static import dataset

SPEC = ProbeSpec("x", "float32", (6,), 0.0, 1.0)
IMAGE = ProbeSpec("x", "float32", (1, 8, 8), 0.0, 1.0)
SEED = Digest.of(b"the original model")
PLAN = GoldenPlan(mutants=40)


def int8(data: bytes, shape: tuple[int, ...] = (6,)) -> CheckedModel:
    return check_model(quantise_int8_static(shrink_model(data), Int8Static(), dataset(rows(32, shape))).data)


def fp32(data: bytes) -> CheckedModel:
    return check_model(shrink_model(data))


def golden(*variants: GoldenVariant, plan: GoldenPlan = PLAN, spec: ProbeSpec = SPEC) -> GoldenResult:
    return build_golden(variants, [spec], plan=plan, seed=SEED)


def test_probes_stay_in_their_range_whatever_the_kind() -> None:
    specs = [
        ProbeSpec("a", "float32", (3, 5), -2.5, 0.1),
        ProbeSpec("b", "int64", (4,), 3, 7),
        ProbeSpec("c", "float32", (2,), 5.0, 5.0),
        ProbeSpec("d", "uint8", (), 0, 255),
    ]
    probes = make_probes(specs, count=30, rng=np.random.default_rng(0))
    for spec in specs:
        array = probes[spec.name]
        assert array.shape == (30, *spec.shape)
        assert array.dtype == spec.dtype
        assert np.float32(spec.low) <= array.min()
        assert array.max() <= np.float32(spec.high)


def test_probes_are_the_same_for_the_same_digest_and_others_for_another() -> None:
    variant = GoldenVariant("fp32", fp32(mlp()), "fp32")
    assert golden(variant).data == golden(variant).data
    assert build_golden([variant], [SPEC], plan=PLAN, seed=Digest.of(b"other")).data != golden(variant).data


def test_the_file_passes_the_self_test_of_every_variant() -> None:
    variants = (GoldenVariant("int8-static", int8(mlp()), "int8"), GoldenVariant("fp32", fp32(mlp()), "fp32"))
    result = golden(*variants)
    probes = parse_golden(result.data)
    assert probes.count == result.count
    for variant in variants:
        with open_session(variant.model) as session:
            outputs = record(session, probes.inputs)
        compare(probes.expected_for(variant.id), outputs, dict(result.tolerances)[variant.id])


def test_a_healthy_network_is_guarded_well() -> None:
    result = golden(GoldenVariant("fp32", fp32(mlp()), "fp32"))
    ((_, score),) = result.scores
    assert score.mutants == 40
    assert score.share >= 0.95
    assert result.worst_share == score.share


def test_an_int8_convolution_is_guarded_well() -> None:
    result = golden(GoldenVariant("int8-static", int8(convnet(), (1, 8, 8)), "int8"), spec=IMAGE)
    assert result.worst_share >= 0.9


def test_every_mutant_is_a_different_model_that_the_walker_accepts() -> None:
    model = int8(mlp())
    mutants = list(make_mutants(model.data, count=60, rng=np.random.default_rng(0)))
    kinds = {mutant.kind for mutant in mutants}
    assert {"channel zeroed", "channels exchanged", "scale x1.1", "outputs permuted", "zero point off by 8", "bias zeroed"} <= kinds
    assert all(check_model(mutant.data).digest != model.digest for mutant in mutants)


def test_mutating_leaves_the_model_as_it_was() -> None:
    data = int8(mlp()).data
    first = [mutant.data for mutant in make_mutants(data, count=60, rng=np.random.default_rng(0))]
    assert first == [mutant.data for mutant in make_mutants(data, count=60, rng=np.random.default_rng(0))]


def test_permuted_outputs_are_caught() -> None:
    model = int8(mlp())
    mutant = next(
        item for item in make_mutants(model.data, count=5, rng=np.random.default_rng(0)) if item.kind == "outputs permuted"
    )
    probes = make_probes([SPEC], count=4, rng=np.random.default_rng(0))
    with open_session(model) as healthy, open_session(check_model(mutant.data)) as damaged:
        expected, outputs = record(healthy, probes), record(damaged, probes)
    with pytest.raises(SelfTestError):
        compare(expected, outputs, choose_tolerance(model.data, "int8", probes, expected))


def test_too_few_probes_are_added_to_until_they_bite() -> None:
    variant = GoldenVariant("int8-static", int8(convnet(), (1, 8, 8)), "int8")
    one = golden(variant, plan=GoldenPlan(probes=1, max_probes=1, mutants=40), spec=IMAGE)
    grown = golden(variant, plan=GoldenPlan(probes=1, max_probes=30, mutants=40, min_score=1.0), spec=IMAGE)
    assert one.count == 1
    assert grown.count > 1
    assert grown.worst_share > one.worst_share


def test_what_every_device_downloads_is_bounded() -> None:
    variant = GoldenVariant("fp32", fp32(mlp()), "fp32")
    assert golden(variant, plan=GoldenPlan(probes=8, max_bytes=6 * 4 * 3, mutants=10)).count == 3
    assert golden(variant, plan=GoldenPlan(probes=8, max_bytes=1, mutants=10)).count == 1


def test_the_search_finds_a_probe_for_a_channel_that_noise_misses() -> None:
    """A unit that wakes up only where all six inputs are high."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(mlp(hidden=2, classes=2))
    values = {"first.weight": [[1.0] * 6, [0.1] * 6], "first.bias": [-5.2, 0.0], "second.weight": [[9.0, 1.0], [0.0, 1.0]]}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values[tensor.name], np.float32), tensor.name))
    healthy = model.SerializeToString()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "first.weight")
    weights.CopyFrom(numpy_helper.from_array(np.asarray([[0.0] * 6, [0.1] * 6], np.float32), "first.weight"))
    with open_session(check_model(healthy)) as one, open_session(check_model(model.SerializeToString())) as other:
        found = seek_probe(one, other, [SPEC], allowed=0.5, steps=48, rng=np.random.default_rng(0))
        none = seek_probe(one, one, [SPEC], allowed=0.5, steps=3, rng=np.random.default_rng(0))
    assert found.probe is not None
    assert found.probe["x"].sum() > 5.2
    assert (none.probe, none.gap, none.inputs) == (None, 0.0, 3 * WIDTH)


def test_a_larger_model_is_searched_less_so_that_packing_ends() -> None:
    small, large = shrink_model(mlp()), shrink_model(mlp(features=512, hidden=2048))
    assert search_steps(large) < search_steps(small)
    assert search_steps(large) >= 1


def test_a_dead_channel_is_counted_apart_and_not_as_missed() -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(mlp())
    for tensor in model.graph.initializer:
        if tensor.name == "first.bias":
            bias = numpy_helper.to_array(tensor).copy()
            bias[:8] = -100.0  # these units never wake up
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    plan = GoldenPlan(mutants=60)
    ((_, score),) = golden(GoldenVariant("fp32", fp32(model.SerializeToString()), "fp32"), plan=plan).scores
    assert score.without_effect > 0
    assert score.mutants == score.caught + score.without_effect + sum(count for _, count in score.survivors)
    assert score.share >= 0.95
    assert score.to_json()["without_effect"] == score.without_effect


def test_an_int8_output_is_judged_by_its_own_step() -> None:
    model = int8(mlp())
    step = output_step(model.data)
    assert step is not None
    probes = make_probes([SPEC], count=4, rng=np.random.default_rng(0))
    with open_session(model) as session:
        expected = record(session, probes)
    tolerance = choose_tolerance(model.data, "int8", probes, expected)
    assert tolerance.kind == "one_lsb"
    assert tolerance.value == pytest.approx(step, rel=0.01)


def test_a_float_output_is_judged_by_an_absolute_difference() -> None:
    model = fp32(convnet())
    assert output_step(model.data) is None
    probes = make_probes([IMAGE], count=4, rng=np.random.default_rng(0))
    with open_session(model) as session:
        expected = record(session, probes)
    tolerance = choose_tolerance(model.data, "fp32", probes, expected)
    assert tolerance.kind == "absolute"
    assert 0 < tolerance.value < 1e-3 * float(np.ptp(expected["y"]))


def test_golden_inputs_hold_no_row_of_the_data(tmp_path: Path) -> None:
    x = rows(32)
    probes = parse_golden(golden(GoldenVariant("int8-static", int8(mlp()), "int8")).data)
    assert not {row.tobytes() for row in probes.inputs["x"]} & {row.tobytes() for row in x}


def selecting() -> CheckedModel:
    """Scores, and the places and values of those above a half: as many as the input has, like suppressed boxes."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["scores"]),
        helper.make_node("Greater", ["scores", "half"], ["found"]),
        helper.make_node("NonZero", ["found"], ["places"]),
        helper.make_node("Reshape", ["scores", "flat"], ["list"]),
        helper.make_node("Reshape", ["found", "flat"], ["flags"]),
        helper.make_node("Compress", ["list", "flags"], ["values"]),
    ]
    w = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    constants = {"w": w, "half": np.float32(0.5), "flat": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 8]),
            helper.make_tensor_value_info("places", TensorProto.INT64, [2, "found"]),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["found"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return check_model(model.SerializeToString())


def test_outputs_of_a_size_that_depends_on_the_input_are_guarded_too() -> None:
    model = selecting()
    result = golden(GoldenVariant("fp32", model, "fp32"))
    ((_, tolerance),) = result.tolerances
    ((_, score),) = result.scores
    probes = parse_golden(result.data)
    expected = dict(probes.expected_for("fp32"))
    with open_session(model) as session:
        alone = [session.run({"x": probes.inputs["x"][row : row + 1]})["values"] for row in range(probes.count)]
        compare(expected, record(session, probes.inputs), tolerance)
    assert len({len(values) for values in alone}) > 1
    for row, values in enumerate(alone):
        assert np.array_equal(expected["values"][row, : len(values)], values)
        assert np.all(expected["values"][row, len(values) :] == filler(values.dtype))
    assert tolerance.value < 0.01  # of scores: neither places nor what fills up the rows counts
    assert score.share >= 0.95
    one_more = {**expected, "values": np.where(expected["values"] == filler(alone[0].dtype), 0.0, expected["values"])}
    with pytest.raises(SelfTestError):
        compare(expected, {name: np.asarray(array, expected[name].dtype) for name, array in one_more.items()}, tolerance)


def logarithm(*, offset: float) -> CheckedModel:
    """A network behind a logarithm, as of a spectrum: silence has none."""
    nodes = [
        helper.make_node("Sub", ["x", "offset"], ["energy"]),
        helper.make_node("Log", ["energy"], ["level"]),
        helper.make_node("Gemm", ["level", "w"], ["y"]),
    ]
    w = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    return check_model(graph(nodes, {"w": w, "offset": np.asarray(offset)}, x=["N", 6], y=["N", 8]))


def test_probes_are_inputs_on_which_the_model_gives_numbers() -> None:
    result = golden(GoldenVariant("fp32", logarithm(offset=0.0), "fp32"))
    probes = parse_golden(result.data)
    assert probes.count >= 4
    assert np.isfinite(probes.expected_for("fp32")["y"]).all()
    with open_session(logarithm(offset=0.0)) as session:
        compare(probes.expected_for("fp32"), record(session, probes.inputs), dict(result.tolerances)["fp32"])


def test_a_model_that_gives_no_number_anywhere_is_refused_by_name() -> None:
    with pytest.raises(UsageError) as caught:
        golden(GoldenVariant("fp32", logarithm(offset=2.0), "fp32"))
    assert caught.value.code == "golden_not_finite"


def test_outputs_as_large_as_floats_get_have_a_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packager.tolerance.reference_gap", lambda *_: None)
    expected = {"y": np.array([[-3e38], [3e38]], np.float32)}
    assert 0 < choose_tolerance(fp32(mlp()).data, "fp32", {"x": rows(2)}, expected).value < 1e38


def normalised(scale: float = 1.0) -> bytes:
    """Batch normalisation that cannot be merged into a layer, of an opset at which it may train."""
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.5, 2.0, 6) for name in ("gamma", "beta", "mean", "var")} | {
        "w": scale * rng.standard_normal((6, 8))
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("BatchNormalization", ["r", "gamma", "beta", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["s"]),
        helper.make_node("Gemm", ["s", "w"], ["y"]),
    ]
    return graph(nodes, constants, x=["N", 6], y=["N", 8], opset=13)


def test_batch_normalisation_is_compared_with_what_inference_computes() -> None:
    model = check_model(normalised())
    probes = make_probes([SPEC], count=4, rng=np.random.default_rng(0))
    with open_session(model) as session:
        expected = record(session, probes)
    assert choose_tolerance(model.data, "fp32", probes, expected).value < 1e-4 * np.ptp(expected["y"])


def test_a_second_opinion_that_is_far_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"y": np.array([[0.0], [1.0]], np.float32)}
    monkeypatch.setattr("packager.tolerance.reference_gap", lambda *_: 0.75)
    for precision, most in (("fp32", 2.0**-12), ("int8", 2.0**-5)):
        assert choose_tolerance(fp32(mlp()).data, precision, {"x": rows(2)}, expected).value <= most


def test_the_work_of_all_searches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def nothing(*_: object, **__: object) -> SearchResult:
        asked.append(1)
        return SearchResult(None, 1e-9, 1)

    monkeypatch.setattr("packager.golden.seek_probe", nothing)
    monkeypatch.setattr("packager.golden.searches", lambda _: 3)
    monkeypatch.setattr("packager.golden.choose_tolerance", lambda *_: Tolerance("absolute", 1e9))  # catches nothing
    result = golden(GoldenVariant("fp32", fp32(mlp()), "fp32"))
    assert len(asked) == 3
    assert result.worst_share == 0.0
    assert searches(b"x" * 10_000_000) >= 1
