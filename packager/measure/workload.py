"""Everything that running a model once costs, counted from its bytes: arithmetic, data moved, memory.

The one input of the device models (``device_model.py``) and of the report. A function of the bytes (and of an example row,
where axes other than the batch are dynamic), so it may stand in a bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from packager.measure.branches import node_graphs
from packager.measure.fusion import ARITHMETICS, INT8, Op, constant_names, folded_bytes, fuse_graph
from packager.measure.macs import MacRow, MacTable, count_macs
from packager.measure.planner import MemoryPlan, plan_memory
from packager.measure.shaped import ShapedGraph, shape_graph

_MAX_JSON_ROWS = 64
_POINTER_BYTES = 8


@dataclass(frozen=True)
class Workload:
    """One inference of one row.

    ``other_elements``: values written by operators that do no MACs, by arithmetic. ``activation_bytes``: read and
    written once per kernel. ``weight_bytes``: constants that kernels read. ``kernels``: calls. ``scratch_bytes``: the most
    that one kernel may take beside its values. ``how``: how sizes were found. ``widened_bytes``: weights that the runtime
    computes from the file's constants when it loads it.
    """

    macs: MacTable
    memory: MemoryPlan
    other_elements: Mapping[str, int]
    activation_bytes: int
    weight_bytes: int
    kernels: int
    scratch_bytes: int
    file_bytes: int
    how: str
    widened_bytes: int = 0

    def to_json(self) -> dict[str, object]:
        """As it stands in the report; the largest operators only, so that no network makes it endless."""
        rows = sorted(self.macs.rows, key=lambda row: (-row.macs, row.node))[:_MAX_JSON_ROWS]
        return {
            "how": "modelled",
            "sizes": self.how,
            "macs": {
                "total": self.macs.total,
                **self.macs.by_arithmetic,
                "operators": [
                    {"node": row.node[:120], "op": row.op_type, "macs": row.macs, "arithmetic": row.arithmetic} for row in rows
                ],
                "operators_not_counted": len(self.macs.uncounted),
            },
            "memory": self.memory.to_json(),
            "activation_bytes_moved": self.activation_bytes,
            "weight_bytes_read": self.weight_bytes,
            "kernels": self.kernels,
            "scratch_bytes": self.scratch_bytes,
        }


def count_workload(data: bytes, *, example: Mapping[str, NDArray[Any]] | None = None) -> Workload:
    """Counts a model.

    Args:
        data: an ONNX file that the walker accepted.
        example: one row per input, as for ``shape_graph``.
    """
    shaped = shape_graph(data, example=example)
    counted = _count(shaped, shaped.graph)
    return Workload(
        MacTable(tuple(counted.rows), tuple(counted.uncounted)),
        plan_memory(shaped),
        counted.other,
        counted.activation_bytes,
        counted.weight_bytes,
        counted.kernels,
        counted.scratch_bytes,
        len(data),
        shaped.how,
        folded_bytes(shaped),
    )


@dataclass
class _Count:
    rows: list[MacRow]
    uncounted: list[str]
    other: dict[str, int]
    activation_bytes: int = 0
    weight_bytes: int = 0
    kernels: int = 0
    scratch_bytes: int = 0

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    def add(self, other: _Count) -> None:
        self.rows += other.rows
        self.uncounted += other.uncounted
        self.activation_bytes += other.activation_bytes
        self.weight_bytes += other.weight_bytes
        self.kernels += other.kernels
        self.scratch_bytes = max(self.scratch_bytes, other.scratch_bytes)
        for kind, count in other.other.items():
            self.other[kind] += count


def _count(shaped: ShapedGraph, graph: Any) -> _Count:
    """One graph; of the branches of a node, the dearest counts. A loop's body counts once."""
    ops = fuse_graph(shaped, graph)
    table = count_macs(ops, shaped.tensors)
    heavy = {row.node for row in table.rows} | set(table.uncounted)
    found = _Count(list(table.rows), list(table.uncounted), dict.fromkeys(ARITHMETICS, 0))
    constants = constant_names(shaped.model)
    for op in ops:
        bodies = [_count(shaped, body) for body in node_graphs(op.node)]
        if bodies:
            found.add(max(bodies, key=lambda body: (body.macs, body.activation_bytes)))
            continue
        found.kernels += 1
        found.activation_bytes += sum(_bytes(shaped, name) for name in (*op.reads, *op.writes) if name not in constants)
        found.weight_bytes += sum(_bytes(shaped, name) for name in op.constants)
        found.scratch_bytes = max(found.scratch_bytes, _scratch_bytes(shaped, op))
        if op.name not in heavy:
            found.other[op.arithmetic] += _elements(shaped, op)
    return found


def _scratch_bytes(shaped: ShapedGraph, op: Op) -> int:
    """Room that onnxruntime's convolutions may take beside their values; zero for other operators.

    Integer ones unfold the input into columns (im2col), or keep one pointer per tap where that is more. Float ones hold a
    copy of input and output in another order.
    """
    weight = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}.get(op.op_type)
    if weight is None or not all(name in shaped.tensors for name in (op.node.input[weight], *op.node.output, *op.writes)):
        return 0
    if op.arithmetic != INT8:
        return sum(_bytes(shaped, name) for name in (*op.reads, *op.writes))
    kernel, out = shaped.tensors[op.node.input[weight]].shape, shaped.tensors[op.node.output[0]].shape
    return math.prod(out[2:]) * math.prod(kernel[2:]) * max(kernel[1], _POINTER_BYTES)


def _bytes(shaped: ShapedGraph, name: str) -> int:
    return shaped.tensors[name].size_bytes if name in shaped.tensors else 0


def _elements(shaped: ShapedGraph, op: Op) -> int:
    return sum(shaped.tensors[name].elements for name in op.writes if name in shaped.tensors)
