from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchmarks.compression_masks import _questions
from benchmarks.compression_models import CASES, patches, resnet8, without_copies
from benchmarks.compression_runtime import NATIVE
from tests.unit.packager.models import mlp


def test_patches_cover_an_image_and_stay_inside() -> None:
    image = np.arange(50 * 70, dtype=np.float32).reshape(50, 70, 1)
    found = patches(image, size=32, stride=16)
    assert len(found) == 2 * 3
    assert all(patch.shape == (32, 32, 1) for patch in found)
    assert found[-1][0, 0, 0] == 16 * 70 + 32


def test_no_pixel_of_a_photograph_is_in_two_parts() -> None:
    found = resnet8(Path())
    rows = {
        part: {row.tobytes() for row in found["input"][found["split"] == part]} for part in ("calibration", "validation", "test")
    }
    assert len(rows["test"]) >= 500
    assert not rows["test"] & rows["calibration"]
    assert not rows["test"] & rows["validation"]


def test_a_question_names_one_of_its_pairs_and_the_answer_is_that_pairs_value() -> None:
    x, y = _questions(np.random.default_rng(0), 20)
    for question, answer in zip(x, y, strict=True):
        key = question[-1, :12].argmax()
        pair = question[:-1, :12].argmax(axis=1).tolist().index(key)
        assert question[pair, 12:].argmax() == answer
        assert question[-1, 12:].sum() == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_rows_of_every_model_fit_its_inputs_and_have_all_parts(case, data_dir: Path) -> None:  # type: ignore[no-untyped-def]
    import onnx

    arrays = case.rows(data_dir)
    graph = onnx.load(data_dir / case.model).graph
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    assert set(arrays) - {"y", "groups", "split"} == inputs
    assert set(arrays["split"].tolist()) == {"calibration", "validation", "test"}
    assert len({len(array) for array in arrays.values()}) == 1


def test_a_row_that_equals_a_test_row_leaves_the_other_parts_and_test_rows_all_stay() -> None:
    x, split = np.array([[1], [2], [1], [3], [3], [2]]), np.array(["calibration", "test", "test", "test", "test", "validation"])
    assert without_copies(x, split).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_row_of_any_model_is_in_two_parts(case, data_dir: Path) -> None:  # type: ignore[no-untyped-def]
    arrays = case.rows(data_dir)
    names = [name for name in arrays if name not in ("y", "groups", "split")]
    first: dict[bytes, str] = {}
    for row, part in enumerate(arrays["split"].tolist()):
        assert first.setdefault(b"".join(arrays[name][row].tobytes() for name in names), part) == part
    if case.id == "kws":
        assert (arrays["split"] == "test").sum() == 800


def test_the_native_runner_gives_every_row_of_every_output() -> None:
    rows = {"x": np.random.default_rng(0).random((5, 6), dtype=np.float32)}
    found = NATIVE.run(mlp(), rows)
    assert [len(values) for values in found.values()] == [5]


def test_every_output_of_a_run_has_one_row_for_each_input_row() -> None:
    """A recurrent state has its batch on another axis."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["state"], perm=[1, 0, 2]),
        helper.make_node("ReduceMean", ["x"], ["out"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "state",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3])],
        [
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "n", 3]),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n"]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    x = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    found = NATIVE.run(model, {"x": x})
    assert found["out"].shape == (5,)
    assert found["state"].shape == (5, 2, 1, 3)
    assert np.array_equal(found["state"][:, :, 0], x)
