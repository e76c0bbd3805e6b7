"""Between dequantisers and a quantiser the bridge adds whole numbers, as the runtime does: no level differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from audits.bridge import program as bridge_program
from audits.bridge.graph import parse_graph
from audits.bridge.joined import JOINED, join_products
from audits.bridge.program import TorchProgram
from device_client.inference.session import open_session
from tests.unit.audits import models

Parts = dict[str, Any]  # what a graph is made of, by name; a test changes one of them
VECTOR, IMAGE, LONG = (None, 12), (None, 3, 6, 6), (None, 4000)


def parts(op: str, shape: tuple[int | None, ...], weights: tuple[int, ...], **attributes: Any) -> Parts:
    """Steps of a tenth on both sides and of a fiftieth behind: every odd sum is near the middle between two levels."""
    rng = np.random.default_rng(3)
    own = 0 if op == "Conv" or attributes.get("transB") else len(weights) - 1
    outputs = weights[own]
    ws = np.full(outputs, 0.1, dtype=np.float32) if op != "MatMul" else np.asarray(0.1, dtype=np.float32)
    reach = 3 if shape != LONG else 127
    return {
        "op": op,
        "shape": shape,
        "attributes": attributes,
        "axis": own,
        "relu": False,
        "xs": np.asarray(0.1, dtype=np.float32),
        "xz": np.asarray(128, dtype=np.uint8),
        "w": rng.integers(-reach, reach + 1, size=weights).astype(np.int8),
        "ws": ws,
        "wz": np.zeros(outputs, dtype=np.int8) if op == "Gemm" else None,
        "b": None if op == "MatMul" else rng.integers(-9, 10, size=outputs).astype(np.int32),
        "bs": np.float32(0.1) * ws,
        "bz": np.zeros(outputs, dtype=np.int32) if op == "Gemm" else None,
        "ys": np.asarray(0.02 if shape != LONG else 20.0, dtype=np.float32),
        "yz": np.asarray(120, dtype=np.uint8),
    }


FORMS: dict[str, Callable[[], Parts]] = {
    "convolution": lambda: parts("Conv", IMAGE, (5, 3, 3, 3), pads=[1, 1, 1, 1]),
    "convolution by groups": lambda: parts("Conv", IMAGE, (6, 1, 3, 3), group=3, strides=[2, 2]),
    "convolution and relu": lambda: parts("Conv", IMAGE, (5, 3, 3, 3)) | {"relu": True, "yz": np.asarray(0, dtype=np.uint8)},
    "convolution without bias": lambda: parts("Conv", IMAGE, (5, 3, 3, 3)) | {"b": None},
    "product with bias": lambda: parts("Gemm", VECTOR, (7, 12), transB=1),
    "product with bias, other way round": lambda: parts("Gemm", VECTOR, (12, 7)),
    "plain product": lambda: parts("MatMul", VECTOR, (12, 7)),
    "one scale for all weights": lambda: (
        parts("Gemm", VECTOR, (7, 12), transB=1)
        | {"ws": np.float32(0.1), "bs": np.float32(0.1) * np.float32(0.1), "wz": np.int8(0), "bz": np.int32(0)}
    ),
    "sums beyond 24 bits": lambda: parts("Gemm", LONG, (3, 4000), transB=1),
}

OTHERS: dict[str, Callable[[], Parts]] = {
    "a factor": lambda: parts("Gemm", VECTOR, (7, 12), transB=1, alpha=2.0),
    "a relu inside the range": lambda: FORMS["convolution and relu"]() | {"yz": np.asarray(9, dtype=np.uint8)},
    "no zero point of the weights": lambda: FORMS["product with bias"]() | {"wz": None},
    "scales along the other axis": lambda: FORMS["plain product"]() | {"ws": np.full(12, 0.1, dtype=np.float32), "axis": 0},
}


def model_of(p: Parts) -> bytes:
    """x -> quantised and back -> product -> perhaps relu -> quantised and back -> y."""

    def names(*some: str) -> list[str]:
        return [name for name in some if p[name] is not None]

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", names("w", "ws", "wz"), ["wd"], axis=p["axis"]),
        *([] if p["b"] is None else [helper.make_node("DequantizeLinear", names("b", "bs", "bz"), ["bd"], axis=0)]),
        helper.make_node(p["op"], ["xd", "wd", *([] if p["b"] is None else ["bd"])], ["sum"], **p["attributes"]),
        *([helper.make_node("Relu", ["sum"], ["act"])] if p["relu"] else []),
        helper.make_node("QuantizeLinear", ["act" if p["relu"] else "sum", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    read = {name for node in nodes for name in node.input}
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in p.items() if name in read and name != "axis"]
    return models.build(nodes, weights, inputs=("x", list(p["shape"])), outputs=("y", [None] * (4 if p["op"] == "Conv" else 2)))


def rows(p: Parts, count: int = 40) -> Any:
    return np.random.default_rng(4).uniform(-3, 3, size=(count, *p["shape"][1:])).astype(np.float32)


def bridged(data: bytes, x: Any) -> Any:
    with torch.no_grad():
        return TorchProgram(parse_graph(data), wanted=("y",))(torch.from_numpy(x))[0].numpy()


def joined(data: bytes, *wanted: str) -> int:
    graph = parse_graph(data)
    nodes, _ = join_products(graph.nodes, graph.constants, wanted=wanted)
    return sum(node.domain == JOINED for node in nodes)


def in_eighths(p: Parts) -> Parts:
    """Steps that floats hold exactly, so that odd sums are just in the middle between two levels."""
    eighth, square = np.float32(1 / 8), np.float32(1 / 64)
    changed = {"xs": eighth, "ws": np.full_like(p["ws"], eighth), "bs": np.full_like(p["bs"], square), "ys": np.float32(1 / 32)}
    return p | changed


@pytest.mark.parametrize("steps", [dict, in_eighths], ids=["tenths", "eighths"])
@pytest.mark.parametrize("name", [name for name in FORMS if name != "sums beyond 24 bits"])
def test_no_level_differs_from_the_runtime(name: str, steps: Callable[[Parts], Parts]) -> None:
    same_levels(steps(FORMS[name]()))


def test_no_level_of_a_long_sum_differs_from_the_runtime() -> None:
    same_levels(FORMS["sums beyond 24 bits"]())


def same_levels(p: Parts) -> None:
    data, x = model_of(p), rows(p)
    assert joined(data, "y") == 1
    with open_session(models.checked(data), threads=1) as session:
        expected = np.concatenate([session.run({"x": row[None]})["y"] for row in x])
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(bridged(data, x), expected)


def test_sums_that_single_precision_may_not_hold_are_added_in_double() -> None:
    for name, expected in (("sums beyond 24 bits", np.float64), ("product with bias", np.float32)):
        graph = parse_graph(model_of(FORMS[name]()))
        _, made = join_products(graph.nodes, graph.constants, wanted=("y",))
        assert next(array.dtype for key, array in made.items() if key.endswith("weights")) == expected


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_runtime_computes_as_floats_is_left_as_it_is(name: str) -> None:
    p = OTHERS[name]()
    data, x = model_of(p), rows(p)
    assert joined(data, "y") == 0
    with open_session(models.checked(data), threads=1) as session:
        expected = session.run({"x": x})["y"]
    assert np.abs(bridged(data, x) - expected).max() <= 1.01 * p["ys"]


def test_a_bias_in_other_steps_keeps_its_steps() -> None:
    """The runtime takes it for whole sums. Parity then fails, as it should: the file says something else."""
    data = model_of(FORMS["product with bias"]() | {"bs": np.full(7, 0.02, dtype=np.float32)})
    assert joined(data, "y") == 0


def test_a_product_that_is_tapped_stays() -> None:
    p = FORMS["product with bias"]()
    data, x = model_of(p), torch.from_numpy(rows(p))
    assert joined(data, "y", "sum") == 0
    output, sums = TorchProgram(parse_graph(data), wanted=("y", "sum"))(x)
    assert (output - sums.clamp(-2.4, 2.7)).abs().max() <= 0.0101
    assert sums.abs().max() > 2.7


@pytest.mark.parametrize("name", ["convolution", "convolution and relu", "product with bias", "plain product"])
def test_the_gradient_is_that_of_the_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = FORMS[name]()
    p["w"] = np.random.default_rng(5).integers(-99, 100, size=p["w"].shape).astype(np.int8)  # so that no sum is just zero
    p["ys"] = np.asarray(0.271, dtype=np.float32)  # some sums lie outside the range
    data = model_of(p)
    mine = gradient_of(data, rows(p))
    monkeypatch.setattr(bridge_program, "join_products", lambda nodes, constants, wanted: (list(nodes), {}))
    np.testing.assert_allclose(mine, gradient_of(data, rows(p)), rtol=1e-4, atol=1e-5)
    assert np.abs(mine).max() > 0.05


def gradient_of(data: bytes, x: Any) -> Any:
    """Of outputs weighted unevenly, so that nothing cancels."""
    given = torch.from_numpy(x).requires_grad_()
    output = TorchProgram(parse_graph(data), wanted=("y",))(given)[0]
    weights = torch.linspace(-1, 1, output[0].numel()).reshape(output[0].shape)
    (gradient,) = torch.autograd.grad((output * weights).sum(), given)
    return gradient.numpy()
