"""Where the values of one inference lie in memory, planned from the graph: the peak, and an arrangement that reaches it.

Liveness follows the file's order at batch 1: a value takes room from the kernel that writes it to the last one that reads
it; inputs from the start, outputs to the end. Kernels are those of ``fusion.py``, so a quantised graph counts in 8-bit
tensors. Reshapes share their input's room, and element-wise kernels write over an input that nobody reads again, as
onnxruntime and TensorFlow Lite Micro both do. Weights are not here.

What it does not show: scratch room inside kernels, and a runtime that runs operators in another order.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packager.measure.branches import node_graphs
from packager.measure.fusion import Op, constant_names, fuse_graph
from packager.measure.shaped import ShapedGraph, Tensor

ALIGNMENT = 16
"""Bytes; each value begins at a multiple of it, as in TensorFlow Lite Micro."""

_SHARES_ROOM = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
_WRITES_OVER = frozenset(
    {"Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Neg", "Abs", "Sqrt", "Exp"}
)


@dataclass(frozen=True)
class MemoryPlan:
    """Peak memory of activations for one row, in bytes.

    ``peak_bytes``: the largest sum of values alive at once; no arrangement needs less. ``arena_bytes``: what the
    arrangement found here needs. ``at``: the operator at the peak. ``unknown``: values without a known size, not counted.
    """

    peak_bytes: int
    arena_bytes: int
    at: str
    unknown: int

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "how": "modelled",
            "peak_bytes": self.peak_bytes,
            "arena_bytes": self.arena_bytes,
            "at": self.at[:120],
            "values_of_unknown_size": self.unknown,
        }


@dataclass
class _Buffer:
    """Room for one or more values: ``first`` and ``last`` are indices of kernels, both inclusive."""

    size_bytes: int
    first: int
    last: int


def plan_memory(shaped: ShapedGraph) -> MemoryPlan:
    """Plans the main graph; inner graphs count as room that their node needs while it runs."""
    return _plan(shaped, shaped.graph, inner=False)


def _plan(shaped: ShapedGraph, graph: Any, *, inner: bool) -> MemoryPlan:
    ops = fuse_graph(shaped, graph)
    buffers = _buffers(shaped, graph, ops, inner=inner)
    peak, where = 0, ""
    for index, op in enumerate(ops):
        alive = sum(buffer.size_bytes for buffer in buffers if buffer.first <= index <= buffer.last)
        if alive > peak:
            peak, where = alive, op.name
    return MemoryPlan(peak, _arrange(buffers), where, len(shaped.unknown))


def _buffers(shaped: ShapedGraph, graph: Any, ops: Sequence[Op], *, inner: bool) -> list[_Buffer]:
    tensors, constants = shaped.tensors, constant_names(shaped.model)
    end = max(0, len(ops) - 1)
    kept = {value.name for value in graph.output}
    last_read = {name: index for index, op in enumerate(ops) for name in op.reads}
    rooms: dict[str, _Buffer] = {}
    buffers: list[_Buffer] = []

    def last(name: str, index: int) -> int:
        return end if name in kept else last_read.get(name, index)

    inputs = [] if inner else [value.name for value in graph.input if value.name not in constants]
    for name in inputs:
        rooms[name] = _Buffer(_size(tensors, name), 0, last(name, 0))
        buffers.append(rooms[name])
    for index, op in enumerate(ops):
        for name in op.writes:
            shared = _room_to_share(op, name, rooms, tensors, index=index, outside={*inputs, *kept})
            if shared is not None:
                shared.last = max(shared.last, last(name, index))
                rooms[name] = shared
                continue
            rooms[name] = _Buffer(_size(tensors, name), index, last(name, index))
            buffers.append(rooms[name])
        scratch = max((_plan(shaped, body, inner=True).arena_bytes for body in node_graphs(op.node)), default=0)
        if scratch:
            buffers.append(_Buffer(scratch, index, index))
    return [buffer for buffer in buffers if buffer.size_bytes]


def _room_to_share(
    op: Op, name: str, rooms: Mapping[str, _Buffer], tensors: Mapping[str, Tensor], *, index: int, outside: set[str]
) -> _Buffer | None:
    """Room that the output takes over from an input; never that of a value which the caller sees."""
    for source in op.reads:
        room = rooms.get(source)
        if room is None or source in outside or name in outside or _size(tensors, source) != _size(tensors, name):
            continue
        if op.op_type in _SHARES_ROOM or (op.op_type in _WRITES_OVER and room.last == index):
            return room
    return None


def _arrange(buffers: Sequence[_Buffer]) -> int:
    """Greedy by size: the largest first, each at the lowest place that is free for all its time.

    Source: Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference", greedy by size.
    """
    placed: list[tuple[int, _Buffer]] = []
    top = 0
    for buffer in sorted(buffers, key=lambda item: (-item.size_bytes, item.first, item.last)):
        place = 0
        for start, other in placed:  # kept in order of their place
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if start - place >= buffer.size_bytes:
                break
            place = max(place, _aligned(start + other.size_bytes))
        insort(placed, (place, buffer), key=lambda item: item[0])
        top = max(top, place + buffer.size_bytes)
    return top


def _aligned(value: int) -> int:
    return -(-value // ALIGNMENT) * ALIGNMENT


def _size(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].size_bytes if name in tensors else 0
