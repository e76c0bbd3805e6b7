"""A ``.pt2`` program is read without unpickling, and what could run code is refused before torch sees the file."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.errors import UsageError
from device_client.inference.session import open_session
from packager.load import load_model
from packager.program_archive import safe_archive
from packager.program_sizes import is_arithmetic

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small network with a weight, a buffer and a constant, exported with a dynamic batch."""
    import torch

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.f = torch.nn.Linear(6, 4)
            self.register_buffer("scale", torch.full((4,), 2.0))

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.f(x)).view(x.shape[0], 2, 2).flatten(1)
            return {"scores": h * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0]), "sum": h.sum(1)}

    torch.manual_seed(0)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(Net().eval(), (torch.randn(2, 6),), dynamic_shapes=(batch,))
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(exported, path)
    return path.read_bytes()


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


def zipped(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(f"net/{name}", data)
    return file.getvalue()


def edited(content: bytes, name: str, change: Callable[[Any], None]) -> bytes:
    parts = members(content)
    value = json.loads(parts[name])
    change(value)
    return zipped({**parts, name: json.dumps(value).encode()})


def test_a_program_loads_like_the_module_that_it_was(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(program)
    one, other = (load_model(str(tmp_path / "net.pt2"), seed=0, example=dict) for _ in range(2))
    assert one.model.data == other.model.data
    assert one.source_name == "torch program"
    assert one.source_bytes == len(program)
    assert [(spec.name, spec.shape) for spec in one.model.inputs] == [("x", ("batch", 6))]
    assert [(spec.name, spec.shape) for spec in one.model.outputs] == [("scores", ("batch", 4)), ("sum", ("batch",))]
    import torch

    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    with open_session(one.model) as session:
        found = session.run({"x": x})
    net = torch.export.load(io.BytesIO(program)).module()
    assert np.allclose(found["scores"], net(torch.from_numpy(x))["scores"].detach().numpy(), atol=1e-5)


def test_nothing_that_python_would_run_is_in_what_torch_reads(program: bytes) -> None:
    parts = members(safe_archive(program, where="net.pt2"))
    cleaned = json.loads(parts[MODEL])
    assert parts["data/sample_inputs/model.pt"] == b""
    assert members(program)["data/sample_inputs/model.pt"] != b""
    assert cleaned["guards_code"] == []
    assert all(node["metadata"] == {} for node in cleaned["graph_module"]["graph"]["nodes"])
    assert b"stack_trace" not in parts[MODEL]
    assert not any(b"pickle" in name.encode() or name.endswith(".pkl") for name in parts)


class _Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def _nodes(value: Any) -> list[Any]:
    nodes: list[Any] = value["graph_module"]["graph"]["nodes"]
    return nodes


def _set(key: str, to: Any, *, at: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        at(value)[key] = to

    return change


def _first_weight(value: Any) -> Any:
    return next(iter(value["config"].values()))


def _call(value: Any) -> Any:
    return value["graph_module"]["module_call_graph"][0]["signature"]


def _first_size(value: Any) -> Any:
    sizes = value["graph_module"]["graph"]["sym_int_values"]
    return next(iter(sizes.values()))["as_expr"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param(WEIGHTS, _set("use_pickle", True, at=_first_weight), id="a pickled weight"),
        pytest.param(WEIGHTS, _set("path_name", "../../models/model.json", at=_first_weight), id="a weight elsewhere"),
        pytest.param(CONSTANTS, _set("path_name", "custom_obj_0", at=_first_weight), id="a custom object"),
        pytest.param(CONSTANTS, _set("path_name", "opaque_obj_0", at=_first_weight), id="an opaque object"),
        pytest.param(MODEL, _set("target", "torch.ops.aten.from_file.default", at=lambda v: _nodes(v)[0]), id="reads a file"),
        pytest.param(MODEL, _set("target", "torch.hub.load", at=lambda v: _nodes(v)[0]), id="a function of torch"),
        pytest.param(MODEL, _set("target", "torch.ops.evil.run.default", at=lambda v: _nodes(v)[0]), id="a custom operator"),
        pytest.param(MODEL, _set("target", "_operator.attrgetter", at=lambda v: _nodes(v)[0]), id="a function of operator"),
        pytest.param(MODEL, _set("target", "#extension:run", at=lambda v: _nodes(v)[0]), id="an extension"),
        pytest.param(MODEL, _set("name", "a; import os", at=lambda v: _nodes(v)[0]), id="code as a name"),
        pytest.param(MODEL, _set("name", "__class__", at=lambda v: _nodes(v)[0]), id="a name of Python's own"),
        pytest.param(MODEL, _set("name", "lambda", at=lambda v: _nodes(v)[0]), id="a keyword as a name"),
        pytest.param(MODEL, _set("expr_str", "__import__('os').getcwd()", at=_first_size), id="code as a size"),
        pytest.param(MODEL, _set("expr_str", "Integer(9)**Integer(9)**Integer(99)", at=_first_size), id="a size without end"),
        pytest.param(
            MODEL, _set("in_spec", '[1, {"type": "os.system", "context": "[]", "children_spec": []}]', at=_call), id="a class"
        ),
        pytest.param(
            MODEL,
            _set(
                "in_spec",
                json.dumps([1, {"type": "builtins.tuple", "context": '{"__enum__": 1, "fqn": "os:x"}', "children_spec": []}]),
                at=_call,
            ),
            id="an enum that would be imported",
        ),
        pytest.param(
            MODEL,
            _set("in_spec", '[1, {"type": "collections.defaultdict", "context": {}, "children_spec": []}]', at=_call),
            id="a defaultdict, whose factory would be imported",
        ),
    ],
)
def test_what_would_run_code_is_refused(program: bytes, name: str, change: Callable[[Any], None]) -> None:
    with pytest.raises(UsageError) as caught:
        safe_archive(edited(program, name, change), where="net.pt2")
    assert caught.value.code == "model_program"
    assert "net.pt2" in str(caught.value)
    assert "ONNX" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("data/weights/model.pt", pickle.dumps(_Shell()), id="old weights"),
        pytest.param("data/constants/model.pt", pickle.dumps(_Shell()), id="old constants"),
        pytest.param("data/sample_inputs/model.pt", pickle.dumps(_Shell()), id="example inputs"),
        pytest.param("extra/notes", pickle.dumps(_Shell()), id="extra files"),
    ],
)
def test_pickles_in_members_that_are_not_needed_do_not_reach_torch(program: bytes, name: str, data: bytes) -> None:
    clean = members(safe_archive(zipped({**members(program), name: data}), where="net.pt2"))
    assert all(data not in part for part in clean.values())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda parts: {**parts, "data/aotinductor/model/model.so": b"\x7fELF"}, id="a compiled library"),
        pytest.param(lambda parts: {**parts, "models/other.json": b"{}"}, id="a second program"),
        pytest.param(lambda parts: {name: data for name, data in parts.items() if name != MODEL}, id="no program"),
        pytest.param(lambda parts: {name: data for name, data in parts.items() if "weight_0" not in name}, id="a weight missing"),
        pytest.param(lambda parts: {**parts, MODEL: b"[" * 100_000}, id="endless nesting"),
        pytest.param(lambda parts: {"version": b"8.1", "serialized_state_dict.pt": pickle.dumps(_Shell())}, id="the format of old"),
    ],
)
def test_an_archive_of_another_make_is_refused(program: bytes, make: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    with pytest.raises(UsageError) as caught:
        safe_archive(zipped(make(members(program))), where="net.pt2")
    assert caught.value.code == "model_program"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps(_Shell())], ids=["empty", "cut off", "a pickle"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_model(str(tmp_path / "net.pt2"), seed=0, example=dict)
    assert caught.value.code == "model_program"


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s0', integer=True))",
        "Add(Integer(-1), FloorDiv(Symbol('u3'), Integer(2)))",
        "Pow(Symbol('s0'), Integer(2))",
        "4",
    ],
)
def test_sizes_are_arithmetic(text: str) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "Symbol('x')",
        "Symbol('s0', positive=print('run'))",
        "Symbol('s0').func",
        "Pow(Pow(Symbol('s0'), Integer(4)), Integer(4))",
        "Pow(Symbol('s0'), Integer(99))",
        "Pow(Integer(9), Integer(4))",
        "9**9**9",
        "(lambda: 0)()",
        "Integer('7')",
        "Lambda(Symbol('s0'), 1)",
        "Mul(Integer(2), key=Symbol('s0'))",
        "1.5",
        "",
        "(" * 1000,
    ],
)
def test_sizes_beyond_arithmetic_are_not(text: str) -> None:
    assert not is_arithmetic(text)
