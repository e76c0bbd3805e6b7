"""The bridge's program: an ONNX graph run in torch, differentiable with respect to its input.

Constant subgraphs (weights behind DequantizeLinear or packed in bytes, shapes) are folded once. Only the nodes that the
wanted tensors need are run, so a tapped program does not pay for its cut tail. Operators whose range is that of their
input (dynamic quantisation) see one record at a time, as on a device: each record of a batch gets its own range. Cost:
one torch call for each node, no copies of weights. Deterministic for a fixed number of threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from audits.bridge.calls import Call, Tensor, Translation
from audits.bridge.graph import Array, BridgeError, Graph, Node
from audits.bridge.joined import JOINED, join_products, joined_product
from audits.bridge.operators_image import image_operators
from audits.bridge.operators_math import math_operators
from audits.bridge.operators_quantised import quantised_operators
from audits.bridge.operators_recurrent import recurrent_operators
from audits.bridge.operators_resize import resize_operators
from audits.bridge.operators_shape import shape_operators

_REGISTRIES = (math_operators, shape_operators, image_operators, resize_operators, recurrent_operators, quantised_operators)


def supported_operators() -> frozenset[str]:
    """Every operator of the default domain that the bridge translates."""
    return frozenset().union(*(registry.names() for registry in _REGISTRIES))


@dataclass(frozen=True)
class _Step:
    node: Node
    translation: Translation


class TorchProgram:
    """Computes ``wanted`` tensors of ``graph`` from its single input.

    Raises:
        BridgeError: an operator has no translation, or the graph has not exactly one input.
    """

    def __init__(self, graph: Graph, *, wanted: tuple[str, ...]) -> None:
        if len(graph.inputs) != 1:
            raise BridgeError("not exactly one input", code="bridge_inputs", where="graph", actual=", ".join(graph.inputs)[:80])
        self._graph = graph
        self._wanted = wanted
        self._constants = {name: _tensor(value) for name, value in graph.constants.items()}
        nodes, made = join_products(_needed(graph.nodes, wanted), graph.constants, wanted=wanted)
        self._constants.update({name: _tensor(value) for name, value in made.items()})
        self._steps = self._fold(_needed(nodes, wanted))
        self._by_record = any(step.node.op == "DynamicQuantizeLinear" for step in self._steps)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The wanted tensors for a batch ``x``; a graph with a fixed batch of one is run row by row."""
        if self._by_record and self._graph.batch in {None, 1}:
            return self._run_by_record(x)
        if self._graph.batch is None or self._graph.batch == x.shape[0]:
            return self._run(x)
        if self._graph.batch != 1:
            raise BridgeError(
                "fixed batch size", code="bridge_batch", where="graph", expected="1 or dynamic", actual=self._graph.batch
            )
        rows = [self._run(x[index : index + 1]) for index in range(x.shape[0])]
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def _run_by_record(self, x: Tensor) -> tuple[Tensor, ...]:
        """All records in one batch, while each operator sees batches of one."""
        with warnings.catch_warnings():
            # an operator without a batched form is looped over by torch, which is slow and not wrong
            warnings.filterwarnings("ignore", message="There is a performance drop")
            parts = torch.vmap(lambda record: self._run(record.unsqueeze(0)))(x)
        return tuple(part.flatten(0, 1) for part in parts)

    def _fold(self, nodes: list[Node]) -> tuple[_Step, ...]:
        """Runs what depends on constants only, keeps the rest."""
        steps = []
        for node in nodes:
            translation = _find(node)
            if all(not name or name in self._constants for name in node.inputs):
                with torch.no_grad():
                    self._constants.update(_results(node, self._call(node, translation, self._constants)))
            else:
                steps.append(_Step(node, translation))
        read = {*self._wanted, *(name for step in steps for name in step.node.inputs)}
        self._constants = {name: value for name, value in self._constants.items() if name in read}
        return tuple(steps)

    def _run(self, x: Tensor) -> tuple[Tensor, ...]:
        values = {**self._constants, self._graph.inputs[0]: x}
        for step in self._steps:
            values.update(_results(step.node, self._call(step.node, step.translation, values)))
        return tuple(values[name] for name in self._wanted)

    def _call(self, node: Node, translation: Translation, values: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        inputs = tuple(values[name] if name else None for name in node.inputs)
        try:
            return translation(Call(node, inputs, self._graph.opset))
        except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as e:
            raise BridgeError(
                f"operator {node.op} could not be run", code="bridge_operator", where=node.name or node.op, actual=str(e)[:160]
            ) from e


def _find(node: Node) -> Translation:
    if node.domain == JOINED:
        return joined_product
    for registry in _REGISTRIES:
        if node.op in registry.names() and node.domain in {"", "ai.onnx"}:
            return registry.find(node)
    return math_operators.find(node)


def _results(node: Node, result: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    results = result if isinstance(result, tuple) else (result,)
    return {name: value for name, value in zip(node.outputs, results, strict=False) if name}


def _needed(nodes: Sequence[Node], wanted: tuple[str, ...]) -> list[Node]:
    names = set(wanted)
    kept: list[Node] = []
    for node in reversed(nodes):
        if names.intersection(node.outputs):
            names.update(name for name in node.inputs if name)
            kept.append(node)
    return kept[::-1]


def _tensor(value: Array) -> Tensor:
    with warnings.catch_warnings():
        # initialisers are read-only buffers; the program never writes them, so torch's warning about it says nothing
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if value.dtype.name == "bfloat16":  # not a type of numpy's own
            return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
        try:
            return torch.from_numpy(value if value.ndim else value.reshape(()))
        except TypeError as e:
            raise BridgeError("tensor type not supported", code="bridge_dtype", where="initialiser", actual=str(value.dtype)) from e
