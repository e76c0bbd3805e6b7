"""A graph as the runtime executes it: quantise/dequantise pairs around an integer kernel are that kernel's 8-bit data.

A file in QDQ form shows float operators between DequantizeLinear and QuantizeLinear; what runs, where the runtime fuses
them, is one kernel on 8-bit tensors. Counting the file as written would overstate memory four times and arithmetic too.
Fused here is only what onnxruntime's CPU provider is known to fuse; everything else is counted as written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from packager.measure.branches import node_graphs, subgraphs
from packager.measure.shaped import EIGHT_BITS, ShapedGraph, Tensor

INT8, FP16, FP32 = "int8", "fp16", "fp32"
ARITHMETICS = (INT8, FP16, FP32)

_WITH_FLOAT_OUTPUT = frozenset({"MatMul", "Gemm"})  # integer kernels that can also write float
_MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "MaxPool",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_INTEGER_KERNELS = _MOVES | {
    "Add",
    "AveragePool",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "LeakyRelu",
    "MatMul",
    "Mul",
    "Sigmoid",
    "Softmax",
    "Where",
}
_NEVER_FOLDED = frozenset(
    {"DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
)
_ACTIVATIONS = frozenset({"Relu", "Clip"})  # go into the output range of the kernel before them
_EXPLICIT_INTEGER = frozenset(
    {"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat"}
)


@dataclass(frozen=True)
class Op:
    """One kernel call.

    ``reads``/``writes``: activation tensors in memory. ``constants``: weights it reads. ``node``: the operator that does the
    arithmetic, as written. ``captured``: outer values that its inner graphs read.
    """

    name: str
    op_type: str
    node: Any
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    constants: tuple[str, ...]
    arithmetic: str
    captured: tuple[str, ...] = ()


def fuse_graph(shaped: ShapedGraph, graph: Any | None = None) -> tuple[Op, ...]:
    """The kernel calls of a graph, in file order.

    Args:
        shaped: the model.
        graph: one of its inner graphs; the main graph if left out.
    """
    return _Fuser(shaped, shaped.graph if graph is None else graph).ops()


def constant_names(model: Any) -> frozenset[str]:
    """What is constant when the model runs, in all graphs: initialisers, and what the runtime computes from them at load."""
    found: set[str] = set()
    for graph in subgraphs(model.graph):
        found |= {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    for graph in subgraphs(model.graph):
        for node in graph.node:
            if node.op_type == "Constant" or is_folded(node, found):
                found.update(name for name in node.output if name)
    return frozenset(found)


def is_folded(node: Any, constants: Collection[str]) -> bool:
    """True for an operator on constants alone. DequantizeLinear stays: a kernel behind it may read the integers."""
    inputs = [name for name in node.input if name]
    plain = node.domain in ("", "ai.onnx") and node.op_type not in _NEVER_FOLDED and not node_graphs(node)
    return plain and bool(inputs) and all(name in constants for name in inputs)


def folded_bytes(shaped: ShapedGraph) -> int:
    """Size of what is computed from constants at load, where a kernel reads it: weights that the file holds in fewer bits."""
    constants = constant_names(shaped.model)
    made, read = set(), set()
    for graph in subgraphs(shaped.model.graph):
        for node in graph.node:
            if is_folded(node, constants):
                made.update(node.output)
            else:
                read.update(node.input)
    return sum(shaped.tensors[name].size_bytes for name in made & read if name in shaped.tensors)


class _Fuser:
    def __init__(self, shaped: ShapedGraph, graph: Any) -> None:
        self.tensors: Mapping[str, Tensor] = shaped.tensors
        self.graph = graph
        self.constants = constant_names(shaped.model)
        self.producers = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in (*node.input, *captured_names(node)):
                if name:
                    self.consumers.setdefault(name, []).append(node)

    def ops(self) -> tuple[Op, ...]:
        kernels = {id(node): quantised for node in self.graph.node if (quantised := self._quantised_outputs(node)) is not None}
        absorbed = self._absorbed(kernels)
        found = []
        for index, node in enumerate(self.graph.node):
            if id(node) in absorbed or node.op_type == "Constant" or is_folded(node, self.constants):
                continue
            reads, writes = list(node.input), list(node.output)
            if id(node) in kernels:
                reads = [self._through_dequantise(name) for name in reads]
                writes = kernels[id(node)] or writes
            captured = captured_names(node)
            found.append(
                Op(
                    node.name or f"{node.op_type}_{index}",
                    node.op_type,
                    node,
                    tuple(dict.fromkeys(name for name in (*reads, *captured) if name and name not in self.constants)),
                    tuple(name for name in writes if name),
                    tuple(dict.fromkeys(name for name in reads if name in self.constants)),
                    self._arithmetic(node, quantised=id(node) in kernels),
                    captured,
                )
            )
        return tuple(found)

    def _quantised_outputs(self, node: Any) -> list[str] | None:
        """The 8-bit tensors that an integer kernel writes; empty where it writes float; ``None`` if it is no such kernel."""
        if node.op_type not in _INTEGER_KERNELS or node.domain not in ("", "ai.onnx"):
            return None
        data = [name for name in node.input if name and self._is_data(name)]
        dequantised = [name for name in data if self._is_dequantised(name)]
        plain = [name for name in data if name not in dequantised]
        if not dequantised or any(name not in self.constants or node.op_type in _MOVES for name in plain):
            return None
        if node.op_type in ("Conv", "Gemm", "MatMul") and any(name not in dequantised for name in data[:2]):
            return None
        found = []
        for name in node.output:
            quantised = self._quantised_after(name)
            if not quantised:
                return [] if node.op_type in _WITH_FLOAT_OUTPUT else None
            found += quantised
        return found

    def _quantised_after(self, name: str) -> list[str]:
        users = self.consumers.get(name, [])
        if len(users) == 1 and users[0].op_type in _ACTIVATIONS and name not in self.outputs:
            name = users[0].output[0]
            users = self.consumers.get(name, [])
        if not users or name in self.outputs or any(user.op_type != "QuantizeLinear" for user in users):
            return []
        return [user.output[0] for user in users]

    def _absorbed(self, kernels: Mapping[int, list[str]]) -> set[int]:
        """Nodes that do not run on their own: pairs around integer kernels, and activations inside them."""
        found = set()
        for node in self.graph.node:
            if id(node) in kernels and kernels[id(node)]:
                after = [user for name in node.output for user in self.consumers.get(name, [])]
                after += [user for step in after if step.op_type in _ACTIVATIONS for user in self.consumers.get(step.output[0], [])]
                found |= {id(user) for user in after}
            elif node.op_type == "DequantizeLinear":
                users = self.consumers.get(node.output[0], [])
                if users and node.output[0] not in self.outputs and all(id(user) in kernels for user in users):
                    found.add(id(node))
        return found

    def _is_data(self, name: str) -> bool:
        tensor = self.tensors.get(name)
        if name in self.constants:
            return tensor is not None and tensor.bits >= 16 and tensor.elem_type not in (6, 7)  # not shapes, not axes
        return tensor is None or tensor.elem_type not in (6, 7, 9)

    def _is_dequantised(self, name: str) -> bool:
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        source = self.tensors.get(node.input[0])
        return source is not None and (source.elem_type in EIGHT_BITS or node.input[0] in self.constants)

    def _through_dequantise(self, name: str) -> str:
        return str(self.producers[name].input[0]) if self._is_dequantised(name) else name

    def _arithmetic(self, node: Any, *, quantised: bool) -> str:
        if quantised or node.op_type in _EXPLICIT_INTEGER or node.op_type.startswith(("QLinear", "QGemm", "QAttention")):
            return INT8
        if node.op_type == "MatMulNBits" and any(item.name == "accuracy_level" and item.i == 4 for item in node.attribute):
            return INT8
        types = [self.tensors[name].elem_type for name in (*node.output, *node.input) if name in self.tensors]
        floats = [kind for kind in types if kind in (1, 10, 11, 16)]
        if floats and floats[0] in (10, 16):
            return FP16
        return INT8 if types and not floats and types[0] in EIGHT_BITS else FP32


def captured_names(node: Any) -> tuple[str, ...]:
    """Values from outside that a node's inner graphs read."""
    found: dict[str, None] = {}
    for graph in node_graphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)} | {name for inner in graph.node for name in inner.output}
        for inner in graph.node:
            found.update(dict.fromkeys(name for name in (*inner.input, *captured_names(inner)) if name and name not in own))
        found.update(dict.fromkeys(value.name for value in graph.output if value.name not in own))
    return tuple(found)
