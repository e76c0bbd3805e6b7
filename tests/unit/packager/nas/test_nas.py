from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import sealift
from device_client.errors import UsageError
from device_client.inference.walker import check_model
from packager.data import Dataset
from packager.evaluate import run_rows
from packager.nas import search
from packager.nas.config import FAMILIES, Nas
from packager.nas.cost import module_cost, original_macs
from packager.nas.network import Network
from packager.nas.search import HOPELESS, Found, choose
from packager.nas.signature import Signature, read_signature
from packager.nas.space import START, architecture, choices
from packager.nas.technique import search_architecture
from packager.ptq.static import Int8Static, quantise_int8_static
from packager.technique import Compressed, TechniqueContext, apply_technique, read_technique
from packager.toml_table import TomlTable
from packager.training_plan import TrainingPlan

from ..models import graph

PLAN = TrainingPlan(epochs=6, learning_rate=1e-2, batch_rows=32)
QUICK = Nas(trials=3, epochs=2)


def beats(count: int, *, seed: int, length: int = 32) -> Dataset:
    """Class 1 has a bump that points up, class 0 one that points down, anywhere."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.normal(0, 0.3, (count, length)).astype(np.float32)
    for row, start in enumerate(rng.integers(0, length - 4, count)):
        x[row, start : start + 4] += 2.0 * labels[row] - 1.0
    return Dataset({"signal": x}, labels, None, None, "synthetic")


def original(*, batch: int | str = "N", softmax: bool = True) -> bytes:
    """Knows the answer: the largest and the smallest mean of four neighbours, through far more weights than needed."""
    rng = np.random.default_rng(0)
    wide = np.zeros((64, 1, 4))
    wide[:32], wide[32:] = 0.25, -0.25
    constants = {
        "shape": np.array([-1, 1, 32], dtype=np.int64),
        "w": wide,
        "mix": rng.normal(0, 0.001, (64, 64, 5)) + np.eye(64)[:, :, None] * (np.arange(5) == 2),
        "out": np.concatenate([np.repeat([[-1.0, 1.0]], 32, axis=0), np.repeat([[1.0, -1.0]], 32, axis=0)]) / 8,
    }
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Conv", ["c", "mix"], ["m"], pads=[2, 2]),
        helper.make_node("GlobalMaxPool", ["m"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "out"], ["z" if softmax else "y"]),
        *([helper.make_node("Softmax", ["z"], ["y"], axis=1)] if softmax else []),
    ]
    model = onnx.load_from_string(graph(nodes, constants, x=[batch, 32], y=[batch, 2]))
    for node in model.graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = {"x": "signal", "y": "verdict"}.get(name, name)
    model.graph.input[0].name, model.graph.output[0].name = "signal", "verdict"
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def context(**changes: Any) -> TechniqueContext:
    base = TechniqueContext(
        calibration=beats(32, seed=3),
        validation=beats(100, seed=2),
        train=beats(300, seed=1),
        task="classification",
        training=PLAN,
    )
    return replace(base, **changes)


def nas(config: Nas = QUICK, *, data: bytes | None = None, **changes: Any) -> Compressed:
    return search_architecture(Compressed(original() if data is None else data, "fp32"), config, context(**changes))


def accuracy(data: bytes, rows: Dataset) -> float:
    assert rows.labels is not None
    return float((run_rows(check_model(data), rows)["verdict"].argmax(axis=1) == rows.labels).mean())


def test_a_far_smaller_network_takes_the_originals_place_by_name_and_shape_and_quantises() -> None:
    result, unseen = nas(), beats(400, seed=9)
    assert accuracy(original(), unseen) > 0.95
    assert accuracy(result.data, unseen) > 0.93
    assert len(result.data) < len(original()) / 4
    before, after = check_model(original()), check_model(result.data, features=())
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    np.testing.assert_allclose(run_rows(after, unseen)["verdict"].sum(axis=1), 1, atol=1e-5)
    small = quantise_int8_static(result.data, Int8Static(), context().calibration)
    assert small.int8_weight_share == 1.0
    modelled: Any = result.evidence[-1]["chosen"]
    assert 0.6 < modelled["int8_bytes_modelled"] / len(small.data) < 1.5
    assert result.module is None  # a later export would name its tensors x and y


def test_rows_without_labels_are_enough_for_the_original_teaches() -> None:
    silent = {
        name: replace(part, labels=None) for name, part in (("train", beats(300, seed=1)), ("validation", beats(100, seed=2)))
    }
    assert accuracy(nas(Nas(trials=2, epochs=2), **silent).data, beats(400, seed=9)) > 0.9


def test_values_are_learnt_too_and_a_fixed_batch_stays_as_it_was_declared() -> None:
    data = original(batch=1, softmax=False)
    parts = [replace(beats(count, seed=seed), labels=None) for count, seed in ((300, 1), (100, 2))]
    result = nas(Nas(trials=2, epochs=2, family="mobilenet"), data=data, task="regression", train=parts[0], validation=parts[1])
    assert check_model(result.data).inputs == check_model(data).inputs
    evidence: Any = result.evidence[-1]
    assert evidence["validation"]["original"] == 1.0
    assert evidence["validation"]["chosen"] > 0.5


def test_the_front_holds_no_network_that_another_one_beats_and_the_start_is_one_of_each_family() -> None:
    evidence: Any = nas(Nas(trials=5, epochs=1)).evidence[-1]
    assert {item["family"] for item in evidence["tried"][:3]} == set(FAMILIES)
    points = [(-item["validation"], item["int8_bytes_modelled"], item["macs"]) for item in evidence["front"]]
    assert points
    for one in points:
        assert not any(all(a <= b for a, b in zip(other, one, strict=True)) and other != one for other in points)


def test_a_network_that_is_a_torch_module_stays_one_where_names_fit() -> None:
    model = onnx.load_from_string(original())
    for node in model.graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = {"signal": "x", "verdict": "y"}.get(name, name)
    model.graph.input[0].name, model.graph.output[0].name = "x", "y"
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    parts = {
        name: Dataset({"x": part.inputs["signal"]}, part.labels, None, None, "x")
        for name, part in vars(context()).items()
        if isinstance(part, Dataset)
    }
    found = nas(Nas(trials=1, epochs=1), data=model.SerializeToString(), **parts)
    assert isinstance(found.module, torch.nn.Module)
    with torch.no_grad():
        expected = found.module(torch.from_numpy(parts["train"].inputs["x"][:5])).numpy()
    actual = run_rows(check_model(found.data), parts["train"].take(np.arange(5)))["y"]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


SCRIPT = """
import os, sys
import packager.nas.search as module
from packager.technique import Compressed
from tests.unit.packager.nas.test_nas import LONGER, context, original, replace, search_architecture

train, calls = module.train, []
def watched(*args, **kwargs):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), 9)
    return train(*args, **kwargs)
module.train = watched
search_architecture(Compressed(original(), "fp32"), replace(LONGER, resume="journal"), context())
"""
LONGER = Nas(trials=5, epochs=1)


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    trained: list[int] = []
    train = search.train

    def counted(*args: Any, **kwargs: Any) -> float:
        trained.append(1)
        return train(*args, **kwargs)

    monkeypatch.setattr(search, "train", counted)
    return trained


def test_a_killed_search_goes_on_where_it_was_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sealift.__file__).parent), "PYTHONHASHSEED": "1"}
    killed = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'{"op_code": 5, "half a li')
    trained = count_trainings(monkeypatch)
    resumed = nas(replace(LONGER, resume=str(tmp_path / "journal")))
    assert len(trained) == LONGER.trials - 3  # what the killed process had finished is not done again
    undisturbed = nas(LONGER)
    assert resumed.data == undisturbed.data
    assert resumed.evidence == undisturbed.evidence


def test_a_journal_of_another_search_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, trained = Nas(trials=2, epochs=1, resume=str(tmp_path / "journal")), count_trainings(monkeypatch)
    first = nas(config)
    assert len(trained) == 2
    nas(config, train=beats(310, seed=5))
    assert len(trained) == 4
    assert nas(config).evidence == first.evidence
    assert len(trained) == 4


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes\nand no journal\n")
    with pytest.raises(UsageError) as caught:
        nas(Nas(trials=1, resume=str(path)))
    assert caught.value.code == "nas_journal"
    assert path.read_text() == "these are my notes\nand no journal\n"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"train": None}, "nas_data", id="no training rows"),
        pytest.param({"train": beats(99, seed=1)}, "nas_data", id="too few training rows"),
        pytest.param({"validation": None}, "nas_data", id="no validation rows"),
        pytest.param({"task": "detection"}, "nas_model", id="a task that is not taken on"),
    ],
)
def test_what_the_search_cannot_work_with_is_a_named_error(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        nas(**changes)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_limit_that_nothing_meets_is_an_error_before_any_training() -> None:
    with pytest.raises(UsageError) as caught:
        nas(Nas(trials=1, max_bytes=100), training=replace(PLAN, loss="no_such_module:loss"))  # would fail if it trained
    assert caught.value.code == "nas_nothing"


def test_no_network_over_the_limit_is_in_the_front() -> None:
    evidence: Any = nas(Nas(trials=3, epochs=1, max_bytes=4000)).evidence[-1]
    assert all(item["int8_bytes_modelled"] <= 4000 for item in evidence["front"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((40,), None), ((3, 40), 0), ((40, 3), 1), ((3, 16, 20), 0), ((16, 20, 3), 2)], ids=str
)
def test_every_family_is_built_for_series_and_images_in_either_order(family: str, shape: tuple[int, ...], axis: int | None) -> None:
    spec = Signature("x", "y", shape, (5,), axis, "softmax")
    assert (spec.channels, len(spec.spatial)) == (1 if axis is None else 3, min(2, max(1, len(shape) - 1)))
    for head in ("average", "flatten"):
        network = Network(architecture(family, {**START[family], "head": head}), spec).eval()
        network.finished = True
        with torch.no_grad():
            outputs = network(torch.ones(2, *shape))
        assert outputs.shape == (2, 5)
        np.testing.assert_allclose(outputs.sum(dim=1).numpy(), 1, atol=1e-5)


def test_costs_count_what_the_layers_do() -> None:
    spec = Signature("x", "y", (1, 8), (2,), 0, "logits")
    chosen = {
        **START["mobilenet"],
        "stages": 1,
        "width": 4,
        "stem_stride": 1,
        "growth": 1.0,
        "expand": 1,
        "kernel": 3,
        "head": "average",
    }
    cost = module_cost(Network(architecture("mobilenet", chosen), spec), (1, 8))
    stem, depthwise, project, head = 4 * 3 * 8, 4 * 3 * 4, 4 * 4 * 4, 4 * 2
    assert cost.macs == stem + depthwise + project + head
    assert original_macs(original(), beats(1, seed=0)) == 64 * 4 * 29 + 64 * 64 * 5 * 29 + 64 * 2


def test_every_choice_gives_an_architecture_and_no_choice_is_missing() -> None:
    for family in FAMILIES:
        names = choices(family)
        assert set(START[family]) == set(names)
        assert all(START[family][name] in values for name, values in names.items())
        for name, values in names.items():
            found = [architecture(family, {**START[family], name: value}) for value in values]
            assert len(set(found)) > 1, name


@pytest.mark.parametrize(
    ("outputs", "task", "head"),
    [
        ([[0.2, 0.8], [0.5, 0.5]], "classification", "softmax"),
        ([[0.2, 0.9], [0.5, 0.5]], "classification", "logits"),
        ([[0.2], [0.9]], "classification", "sigmoid"),
        ([[-1.0], [0.9]], "classification", "logit"),
        ([[0.2, 0.8], [0.5, 0.5]], "regression", "values"),
    ],
)
def test_the_kind_of_output_follows_from_its_numbers_and_the_task(outputs: list[list[float]], task: str, head: str) -> None:
    assert read_signature(check_model(original()), np.array(outputs, np.float32), task=task).head == head


def test_the_cheapest_network_that_is_good_enough_is_chosen_or_else_the_best() -> None:
    front = [Found((("n", 1),), 0.90, 100, 100), Found((("n", 2),), 0.96, 200, 100), Found((("n", 3),), 0.97, 300, 100)]
    assert choose(front, least=0.95) is front[1]
    assert choose(front, least=0.99) is front[2]
    assert HOPELESS > 0


def test_a_recipe_names_the_search_and_wrong_settings_are_errors() -> None:
    step = read_technique(TomlTable({"name": "nas", "trials": 1, "epochs": 1, "family": "squeezenet"}, where="recipe"))
    result = apply_technique(step, Compressed(original(), "fp32"), context())
    chosen: Any = result.evidence[-1]["chosen"]
    assert chosen["family"] == "squeezenet"
    for wrong in ({"family": "transformer"}, {"trials": 0}, {"trails": 3}):
        with pytest.raises(UsageError):
            read_technique(TomlTable({"name": "nas", **wrong}, where="recipe"))
