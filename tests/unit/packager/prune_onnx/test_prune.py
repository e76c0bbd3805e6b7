from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import sealift
from device_client.errors import UsageError
from device_client.inference.walker import check_model
from packager.data import Dataset
from packager.evaluate import run_rows
from packager.prune_onnx.config import PruneChannels
from packager.prune_onnx.prune import prune_channels
from packager.technique import Compressed, TechniqueContext, apply_technique, read_technique
from packager.toml_table import TomlTable

from ..models import convnet, graph
from .patterns import PATTERNS, Draft, chain, concatenation, dataset, depthwise, flattened, perceptron, prepared, residual


def prune(data: bytes, rows: Dataset, **settings: Any) -> Compressed:
    return prune_channels(Compressed(data, "fp32"), PruneChannels(**settings), TechniqueContext(calibration=rows))


def outputs(data: bytes, rows: Dataset) -> Any:
    return run_rows(check_model(data), rows)["y"]


def distance(first: bytes, second: bytes, rows: Dataset) -> float:
    want, have = outputs(first, rows), outputs(second, rows)
    return float(np.square(want - have).sum() / np.square(want - want.mean(axis=0)).sum())


def removed(result: Compressed) -> dict[str, int]:
    groups: Any = result.evidence[-1]["groups"]
    return {"+".join(group["layers"]): group["removed"] for group in groups}


def narrow(*, twins: bool, seed: int = 0) -> bytes:
    """x (N, 6) -> 16 units -> y; with ``twins`` each unit is there twice, up to a factor."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal((16, 6)), rng.standard_normal(16)
    if twins:
        weight[8:], bias[8:] = 2 * weight[:8], 2 * bias[:8]
    constants = {"w": weight, "b": bias, "v": rng.standard_normal((4, 16)), "c": rng.standard_normal(4)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v", "c"], ["y"], transB=1),
    ]
    return graph(nodes, constants, x=["N", 6], y=["N", 4])


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_channels_that_do_nothing_go_and_the_outputs_stay(tmp_path: Path, name: str, allocation: str) -> None:
    source, shape = PATTERNS[name]()
    model, rows = prepared(tmp_path, source), dataset(shape)
    result = prune(model, rows, ratio=0.25, allocation=allocation, refit=False, min_channels=1)
    assert sum(removed(result).values()) >= 2
    assert len(result.data) < len(model)
    want, have = outputs(model, rows), outputs(result.data, rows)
    assert np.abs(want - have).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_still_runs_when_channels_that_matter_go(tmp_path: Path, name: str) -> None:
    source, shape = PATTERNS[name]()
    model, rows = prepared(tmp_path, source), dataset(shape, 128)
    result = prune(model, rows, ratio=0.5, allocation="uniform", min_channels=1)
    assert outputs(result.data, rows).shape == outputs(model, rows).shape
    check_model(result.data, features=())


def test_of_twin_channels_one_is_enough_once_the_next_layer_is_refitted(tmp_path: Path) -> None:
    model, rows = prepared(tmp_path, narrow(twins=True)), dataset((6,), 256)
    with_fit = prune(model, rows, ratio=0.5)
    assert distance(model, with_fit.data, dataset((6,), 256, seed=5)) < 1e-5
    assert distance(model, prune(model, rows, ratio=0.5, refit=False).data, rows) > 0.05


def test_refitting_brings_the_outputs_closer_on_rows_it_has_not_seen(tmp_path: Path) -> None:
    for pattern in (chain, depthwise, residual, flattened, concatenation):
        source, shape = pattern()
        model, rows, unseen = prepared(tmp_path, source), dataset(shape, 256), dataset(shape, 256, seed=7)
        plain = prune(model, rows, ratio=0.4, allocation="uniform", refit=False)
        fitted = prune(model, rows, ratio=0.4, allocation="uniform")
        assert distance(model, fitted.data, unseen) < 0.8 * distance(model, plain.data, unseen)


def test_a_channel_that_is_constant_is_made_up_for_by_the_bias(tmp_path: Path) -> None:
    d = Draft()
    first = d.conv("x", 3, 8, dead=False)
    d.constants[d.nodes[-1].input[1]][::4] = 0
    d.constants[d.nodes[-1].input[2]][::4] = 3
    source, shape = d.classify(d.op("Relu", d.conv(d.op("Relu", first), 8, 8, size=1, dead=False)), 8)
    model, rows = prepared(tmp_path, source), dataset(shape, 128)
    result = prune(model, rows, ratio=0.125)
    assert removed(result)["Conv#0"] == 2
    assert distance(model, result.data, rows) < 1e-4


def test_global_allocation_takes_from_the_layer_that_can_spare_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((16, 6)), "v": rng.standard_normal((16, 16)), "u": rng.standard_normal((4, 16))}
    constants["v"][8:] = 0  # half of the second layer's units do nothing
    nodes = [
        helper.make_node("MatMul", ["x", "wt"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v"], ["i"], transB=1),
        helper.make_node("Relu", ["i"], ["b"]),
        helper.make_node("Gemm", ["b", "u"], ["y"], transB=1),
    ]
    constants["wt"] = constants.pop("w").T
    model = prepared(tmp_path, graph(nodes, constants, x=["N", 6], y=["N", 4]))
    result = prune(model, dataset((6,)), ratio=0.25)
    assert sorted(removed(result).values()) == [0, 8]


def test_the_output_layer_keeps_its_channels(tmp_path: Path) -> None:
    source, shape = perceptron()
    model = prepared(tmp_path, source)
    result = prune(model, dataset(shape, 256), ratio=0.9, min_channels=1)
    assert outputs(result.data, dataset(shape, 4)).shape == (4, 3)
    assert set(removed(result)) == {"Gemm#0", "Gemm#2"}


@pytest.mark.parametrize("kind", ["Softmax over channels", "a shuffle of channels", "an unknown operator"])
def test_what_is_not_understood_keeps_the_channels_that_reach_it(tmp_path: Path, kind: str) -> None:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    if kind == "Softmax over channels":
        first = d.op("Softmax", first, axis=1)
    elif kind == "a shuffle of channels":
        split = d.op("Reshape", first, d.constant(np.array([-1, 2, 4, 64], dtype=np.int64)))
        swapped = d.op("Transpose", split, perm=[0, 2, 1, 3])
        first = d.op("Reshape", swapped, d.constant(np.array([-1, 8, 8, 8], dtype=np.int64)))
    else:
        first = d.op("DepthToSpace", first, blocksize=1)
    source, shape = d.classify(d.op("Relu", d.conv(first, 8, 12)), 12)
    result = prune(prepared(tmp_path, source), dataset(shape), ratio=0.25, min_channels=1)
    assert [count for name, count in removed(result).items() if name.startswith("Conv")] == [3]


def test_excluded_layers_keep_their_channels(tmp_path: Path) -> None:
    source, shape = chain()
    model = prepared(tmp_path, source)
    result = prune(model, dataset(shape), ratio=0.25, exclude=("Conv#0",))
    assert list(removed(result)) == ["Conv#2"]
    with pytest.raises(UsageError, match="no such node") as caught:
        prune(model, dataset(shape), exclude=("Conv#1",))
    assert caught.value.code == "recipe_value"


def test_channels_left_are_a_multiple_of_round_to(tmp_path: Path) -> None:
    source, shape = chain()
    result = prune(prepared(tmp_path, source), dataset(shape, 128), ratio=0.4, round_to=4, allocation="uniform")
    shapes = [tuple(tensor.dims) for tensor in onnx.load_from_string(result.data).graph.initializer if len(tensor.dims) == 4]
    assert sorted(shape[0] for shape in shapes) == [8, 8]


def test_layers_that_share_a_constant_lose_different_parts_of_it(tmp_path: Path) -> None:
    d = Draft()
    d.constants["shared"] = np.zeros(8)
    first = d.op("Relu", d.op("Conv", "x", d.constant(d.rng.standard_normal((8, 3, 1, 1))), "shared"))
    second = d.op("Relu", d.op("Conv", first, d.constant(d.rng.standard_normal((8, 8, 1, 1))), "shared"))
    source, shape = d.classify(second, 8)
    result = prune(prepared(tmp_path, source), dataset(shape, 128), ratio=0.5, exclude=("Conv#0",))
    assert removed(result) == {"Conv#2": 4}


def test_tensors_that_a_branch_uses_from_outside_stay_whole(tmp_path: Path) -> None:
    from packager.prune_onnx.graph import GraphView
    from packager.prune_onnx.trace import trace_channels

    source, shape = chain()
    model, rows = prepared(tmp_path, source), dataset(shape)
    view = GraphView(model, rows)
    assert len(trace_channels(view).units.groups()) == 2
    view.captured.add(view.nodes[1].output[0])
    assert len(trace_channels(view).units.groups()) == 1


def test_too_few_calibration_rows_are_refused_with_the_number_that_is_needed(tmp_path: Path) -> None:
    source, shape = chain()
    model = prepared(tmp_path, source)
    for ratio, needed in ((0.05, 32), (0.25, 64), (0.5, 128)):
        with pytest.raises(UsageError, match=f"at least {needed} rows") as caught:
            prune(model, dataset(shape, needed - 1), ratio=ratio)
        assert caught.value.code == "prune_data"
        prune(model, dataset(shape, needed), ratio=ratio + 0.0, min_channels=1)


@pytest.mark.parametrize("defect", ["one layer", "all excluded", "rounded to nothing"])
def test_a_model_from_which_nothing_can_go_is_an_error_and_no_silent_copy(tmp_path: Path, defect: str) -> None:
    if defect == "one layer":
        source = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((6, 3))}, x=["N", 6], y=["N", 3])
        model, rows, settings = prepared(tmp_path, source), dataset((6,)), {}
    else:
        source, shape = chain()
        model, rows = prepared(tmp_path, source), dataset(shape)
        settings = {"exclude": ("Conv#0", "Conv#2")} if defect == "all excluded" else {"round_to": 64}
    with pytest.raises(UsageError) as caught:
        prune(model, rows, **settings)
    assert caught.value.code == "prune_nothing"


def test_a_quantised_model_is_left_alone_with_an_error(tmp_path: Path) -> None:
    from packager.ptq.static import Int8Static, quantise_int8_static

    rows = dataset((1, 8, 8))
    model = quantise_int8_static(prepared(tmp_path, convnet()), Int8Static(), rows).data
    with pytest.raises(UsageError) as caught:
        prune(model, rows)
    assert caught.value.code == "prune_nothing"


def test_pruning_twice_gives_the_same_bytes_under_another_hash_seed(tmp_path: Path) -> None:
    source, _ = residual()
    (tmp_path / "model.onnx").write_bytes(prepared(tmp_path, source))
    script = (
        "import pathlib, hashlib, numpy as np\n"
        "from packager.data import Dataset\n"
        "from packager.prune_onnx.config import PruneChannels\n"
        "from packager.prune_onnx.prune import prune_channels\n"
        "from packager.technique import Compressed, TechniqueContext\n"
        "rows = Dataset({'x': np.random.default_rng(1).standard_normal((64, 3, 8, 8), dtype=np.float32)}, None, None, None, 't')\n"
        "model = Compressed(pathlib.Path('model.onnx').read_bytes(), 'fp32')\n"
        "result = prune_channels(model, PruneChannels(), TechniqueContext(calibration=rows))\n"
        "print(hashlib.sha256(result.data + repr(result.evidence).encode()).hexdigest())\n"
    )
    found = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONPATH": str(Path(sealift.__file__).parent), "PYTHONHASHSEED": seed}
        found.add(
            subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True).stdout
        )
    assert len(found) == 1


def test_the_recipe_names_the_technique_and_the_result_quantises(tmp_path: Path) -> None:
    source, shape = chain()
    rows = dataset(shape)
    context = TechniqueContext(calibration=rows)
    model = Compressed(prepared(tmp_path, source), "fp32", module=object())
    for table in ({"name": "prune-channels", "ratio": 0.25, "round_to": 2}, {"name": "int8-static"}):
        model = apply_technique(read_technique(TomlTable(table, where="recipe")), model, context)
    assert [entry["technique"] for entry in model.evidence] == ["prune-channels", "int8-static"]
    assert model.precision == "int8"
    assert model.module is None
    with pytest.raises(UsageError):
        read_technique(TomlTable({"name": "prune-channels", "ratio": 1.5}, where="recipe"))


def test_a_kept_share_of_a_real_keyword_spotter_answers_as_before(data_dir: Path, tmp_path: Path) -> None:
    archive = np.load(data_dir / "kws-mfcc" / "kws01_mfcc_int8.npz")
    x = ((archive["mfcc"].astype(np.float32) - 83) * np.float32(0.5847029)).reshape(-1, 49, 10, 1)
    every_fifth = np.arange(len(x)) % 5 == 0
    model = prepared(tmp_path, (data_dir / "models-mlperf-tiny" / "kws.onnx").read_bytes())
    rows, unseen = (Dataset({"input": x[part]}, None, None, None, "kws") for part in (every_fifth, ~every_fifth))
    result = prune(model, rows, ratio=0.1)
    want, have = (run_rows(check_model(data), unseen)["output"].argmax(axis=1) for data in (model, result.data))
    assert (want == have).mean() > 0.95
    assert len(result.data) < 0.92 * len(model)
