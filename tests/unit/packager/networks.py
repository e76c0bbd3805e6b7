"""Networks of many kinds as torch modules with example inputs, and graphs with subgraphs: what other people bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def torch_networks() -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Name to function giving (module, example inputs); one row where the name says so."""
    import torch
    from torch import nn

    class GeluMlp(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.b = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)

        def forward(self, x: Any) -> Any:
            return torch.softmax(self.b(nn.functional.gelu(self.n(self.a(x)))), -1)

    class Transformer(nn.Module):  # type: ignore[misc]
        """Token numbers in, scores of the next token out; a causal mask is added to the attention scores."""

        def __init__(self, mask: float) -> None:
            super().__init__()
            self.e, self.p = nn.Embedding(20, 16), nn.Parameter(torch.randn(8, 16))
            self.q, self.o = nn.Linear(16, 48), nn.Linear(16, 20)
            self.register_buffer("mask", torch.triu(torch.full((8, 8), mask), 1))

        def forward(self, ids: Any) -> Any:
            h = self.e(ids) + self.p
            b, t, d = h.shape
            q, k, v = self.q(h).view(b, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
            weights = torch.softmax(q @ k.transpose(-1, -2) / 3 + self.mask, -1)
            return self.o((weights @ v).transpose(1, 2).reshape(b, t, d))

    class Recurrent(nn.Module):  # type: ignore[misc]
        def __init__(self, kind: Any, *, both_ways: bool = False) -> None:
            super().__init__()
            self.r = kind(5, 8, batch_first=True, bidirectional=both_ways)
            self.f = nn.Linear(16 if both_ways else 8, 3)

        def forward(self, x: Any) -> Any:
            return self.f(self.r(x)[0][:, -1])

    class Detector(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.c, self.k, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.c(x))
            return {"scores": torch.sigmoid(self.k(h)).flatten(2), "boxes": [self.b(h).flatten(2), None]}

    class Shared(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x: Any) -> Any:
            return self.a(torch.relu(self.a(torch.tanh(self.a(x)))))

    class TwoInputs(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.e, self.f = nn.Embedding(9, 4), nn.Linear(10, 2)

        def forward(self, age: Any, code: Any) -> Any:
            return self.f(torch.cat([age, self.e(code).squeeze(1)], 1))

    class Stateful(nn.Module):  # type: ignore[misc]
        """A sequence-first LSTM that takes and gives its state: no axis is the batch of all inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.r = nn.LSTM(5, 8)

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            y, (h, c) = self.r(x, (h, c))
            return y, h, c

    depthwise = nn.Sequential
    return {
        "gelu": lambda: (GeluMlp(), torch.randn(2, 6)),
        "transformer with a mask of -1e9": lambda: (Transformer(-1e9), torch.randint(0, 20, (2, 8))),
        "transformer with a mask of -inf": lambda: (Transformer(float("-inf")), torch.randint(0, 20, (2, 8))),
        "torch's encoder layer": lambda: (
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu"),
            torch.randn(2, 5, 16),
        ),
        "lstm from one row": lambda: (Recurrent(nn.LSTM), torch.randn(1, 7, 5)),
        "gru": lambda: (Recurrent(nn.GRU), torch.randn(2, 7, 5)),
        "bidirectional lstm": lambda: (Recurrent(nn.LSTM, both_ways=True), torch.randn(2, 7, 5)),
        "depthwise": lambda: (
            depthwise(
                nn.Conv2d(3, 8, 3, 2, 1),
                nn.BatchNorm2d(8),
                nn.ReLU6(),
                nn.Conv2d(8, 8, 3, 1, 1, groups=8),
                nn.Hardswish(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Dropout(0.2),
            ),
            torch.randn(2, 3, 16, 16),
        ),
        "detector": lambda: (Detector(), torch.randn(2, 3, 16, 16)),
        "shared weights": lambda: (Shared(), torch.randn(2, 6)),
        "two inputs": lambda: (TwoInputs(), (torch.randn(2, 6), torch.randint(0, 9, (2, 1)))),
        "stateful lstm": lambda: (Stateful(), (torch.randn(3, 1, 5), torch.zeros(1, 1, 8), torch.zeros(1, 1, 8))),
    }


def value(name: str, shape: list[int | str], dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, array: Any, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(array, dtype=dtype), name)


def branching(*, opset: int = 17, width: int = 8) -> bytes:
    """x (N, 6) -> ``If`` its sum is positive -> MatMul in each branch, of equal weights under other names -> y (N, width).

    Both branches and, after them, the main graph use one name for different values; both read a value and a constant of the main
    graph, and hold copies.
    """
    weight = np.random.default_rng(0).standard_normal((6, width))

    def branch(name: str, bias: float) -> Any:
        nodes = [
            helper.make_node("Identity", ["outer"], ["copy"]),
            helper.make_node("MatMul", ["copy", f"{name}.weight"], ["inner"]),
            helper.make_node("Constant", [], ["bias"], value=constant("", [bias])),
            helper.make_node("Add", ["inner", "bias"], ["sum"]),
            helper.make_node("Add", ["sum", "outer.constant"], ["almost"]),
            helper.make_node("MatMul", ["copy", f"{name}.weight"], ["unused"]),
            helper.make_node("Identity", ["almost"], [f"{name}.out"]),
        ]
        return helper.make_graph(nodes, name, [], [value(f"{name}.out", ["N", width])], [constant(f"{name}.weight", weight)])

    nodes = [
        helper.make_node("Relu", ["x"], ["outer"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["picked"], then_branch=branch("then", 1.0), else_branch=branch("else", -1.0)),
        helper.make_node("Neg", ["picked"], ["inner"]),
        helper.make_node("Identity", ["inner"], ["y"]),
    ]
    constants = [constant("zero", 0.0), constant("outer.constant", np.arange(width))]
    graph = helper.make_graph(nodes, "main", [value("x", ["N", 6])], [value("y", ["N", width])], constants)
    return finished(graph, opset=opset)


def looping() -> bytes:
    """x (1, 6) doubled in a ``Loop`` of three rounds, with a subgraph that gives an outer name out through a copy."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "carried"], ["twice"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("round", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("carried", [1, 6])],
        [value("go_on", [], TensorProto.BOOL), value("twice", [1, 6])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        "main",
        [value("x", [1, 6])],
        [value("y", [1, 6])],
        [constant("rounds", 3, np.int64), constant("yes", True, np.bool_)],
    )
    return finished(graph)


def finished(graph: Any, *, opset: int = 17, domains: tuple[str, ...] = ()) -> bytes:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
