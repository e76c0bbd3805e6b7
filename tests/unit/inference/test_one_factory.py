"""Sessions come from one place: no other module of the project makes one, or adds code to the runtime."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from device_client.errors import FormatError
from device_client.inference.session import fold_constants, open_session
from device_client.inference.walker import check_model
from tests.architecture.project import PACKAGES, ROOT, imported_modules, sources
from tests.unit.inference import models

FACTORY = {"device_client/inference/session.py"}
MAKERS = {"InferenceSession", "InferenceSessionBuilder", "TrainingSession", "ModelCompiler", "backend"}
CODE = {
    "register_custom_ops_library",
    "register_execution_provider_library",
    "add_external_initializers",
    "add_external_initializers_from_files_in_memory",
    "add_provider_for_devices",
    "append_execution_provider",
}
# The engine of the quantiser rewrites graphs; what could make a session of its own, its calibration, is not used.
ENGINE = {
    "packager/ptq/engine.py": {
        "onnxruntime.quantization.calibrate",
        "onnxruntime.quantization.qdq_quantizer",
        "onnxruntime.quantization.quant_utils",
    }
}


def names(tree: ast.Module) -> Iterator[str]:
    """Every attribute, name and text of a module: a maker could be reached by any of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield from (node.name, node.name.rpartition(".")[2])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path, tree in sources(package):
            yield path.relative_to(ROOT).as_posix(), tree


def test_only_the_session_factory_makes_a_session() -> None:
    found = {name for name, tree in modules() if MAKERS & set(names(tree))}
    assert found == FACTORY


def test_nothing_adds_code_or_files_to_the_runtime() -> None:
    found = {name: CODE & set(names(tree)) for name, tree in modules()}
    assert not {name: what for name, what in found.items() if what}


def test_the_engine_of_the_quantiser_is_the_only_part_of_the_runtime_used_beside_the_factory() -> None:
    found = {}
    for name, tree in modules():
        used = {module for module in imported_modules(tree) if module.startswith("onnxruntime.")}
        if used:
            found[name] = used
    assert found == ENGINE


def test_the_factory_passes_the_runtime_bytes_and_never_a_path() -> None:
    tree = ast.parse((ROOT / "device_client/inference/session.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "InferenceSession" in ast.dump(node.func)]
    assert [ast.unparse(call.args[0]) for call in calls] == ["model.data"]


def test_constants_are_folded_in_a_session_of_the_factory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # Higher levels than basic would put operators of the runtime's own domain here (a fused Conv and Relu, say).
    conv = [helper.make_node("Conv", ["i", "k"], ["c"]), helper.make_node("Relu", ["c"], ["o"])]
    image = helper.make_tensor_value_info("i", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    graph = helper.make_graph(conv, "g", [image], [helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, [1, 1, 2, 2])])
    graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "k"))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", models.OPSET)], ir_version=8)
    folded = fold_constants(check_model(made.SerializeToString()))
    assert {node.domain for node in onnx.load_from_string(folded).graph.node} <= {"", "ai.onnx"}

    two = numpy_helper.from_array(np.full(3, 2.0, np.float32), "two")
    nodes = [helper.make_node("Add", ["two", "two"], ["four"]), helper.make_node("Mul", ["x", "four"], ["y"])]
    model = check_model(models.model(nodes, initializers=[two]).SerializeToString())
    folded = fold_constants(model)
    assert [node.op_type for node in onnx.load_from_string(folded).graph.node] == ["Mul"]
    x = np.ones((1, 3), np.float32)
    with open_session(check_model(folded)) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], 4 * x)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FormatError):
        fold_constants(check_model(models.model([helper.make_node("Nonsense", ["x"], ["y"])]).SerializeToString()))
