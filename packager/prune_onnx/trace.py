"""Follows channels through a graph: which constants lose which slices when a channel goes, and which channels are one.

Every tensor carries at most one axis of channels. An operator either says what it does with that axis (``rules.py``) or
its channels are fixed: nothing is guessed. The result is a list of cuts; ``cut.py`` carries them out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from packager.prune_onnx.graph import Array, GraphView
from packager.prune_onnx.units import FIXED, Ids, Units


@dataclass(frozen=True)
class Channels:
    """The axis of a tensor that holds channels, and the unit at each position: int64, (size of the axis,)."""

    axis: int
    units: Ids


@dataclass(frozen=True)
class Slice:
    """The constant at ``node``'s input ``index`` keeps, along ``axis``, the positions whose unit stays."""

    node: int
    index: int
    axis: int
    units: Ids


@dataclass(frozen=True)
class Resize:
    """``node``'s constant input ``index`` is a shape: its entry ``axis`` becomes the number of units that stay."""

    node: int
    index: int
    axis: int
    units: Ids


@dataclass(frozen=True)
class Mixer:
    """A layer that sums over its input's channels: ``columns`` says which unit each of them is.

    ``outputs``: the units of its output channels. ``groups``: of a convolution; ``columns`` and ``outputs`` are whole.
    """

    node: int
    columns: Ids
    outputs: Ids
    groups: int = 1


@dataclass
class Trace:
    """What is known while the graph is read, node by node."""

    view: GraphView
    units: Units = field(default_factory=Units)
    channels: dict[str, Channels] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    resizes: list[Resize] = field(default_factory=list)
    grouped: list[tuple[int, Ids]] = field(default_factory=list)
    mixers: list[Mixer] = field(default_factory=list)

    def of(self, node: Any, index: int = 0) -> Channels | None:
        """The channels of the node's input ``index``."""
        return self.channels.get(node.input[index]) if index < len(node.input) else None

    def units_at(self, node: Any, index: int, axis: int) -> Ids:
        """The units along ``axis`` of an input; those of another axis get fixed, for the node mixes them."""
        size = self.view.shapes[node.input[index]][axis]
        found = self.of(node, index)
        if found is None:
            return np.full(size, FIXED, dtype=np.int64)
        if found.axis != axis:
            self.units.fix(found.units)
            return np.full(size, FIXED, dtype=np.int64)
        return found.units

    def give(self, name: str, axis: int, units: Ids) -> None:
        """Says that ``name`` has these channels; axis 0 is the batch and never has any."""
        if axis == 0 or self.view.shapes[name][axis] != len(units):
            self.units.fix(units)
        elif bool((units != FIXED).any()):
            self.channels[name] = Channels(axis, units)

    def cut(self, node: int, index: int, axis: int, units: Ids) -> None:
        """The constant at this input loses slices with ``units``."""
        self.slices.append(Slice(node, index, axis, units))

    def fix_inputs(self, node: Any, *, skip: Collection[int] = ()) -> None:
        """The node is not understood, or needs its inputs whole."""
        for index, name in enumerate(node.input):
            if index not in skip and name in self.channels:
                self.units.fix(self.channels[name].units)


def trace_channels(view: GraphView, *, exclude: Collection[str] = ()) -> Trace:
    """Reads a graph.

    Args:
        view: the graph.
        exclude: labels of nodes whose output channels stay.
    """
    from packager.prune_onnx.rules import RULES

    trace = Trace(view)
    for index, node in enumerate(view.nodes):
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            trace.fix_inputs(node)
        else:
            rule(trace, index, node)
        for name in node.output:
            stays = name in view.outputs or name in view.captured or view.label(index) in exclude
            if stays and name in trace.channels:
                trace.units.fix(trace.channels[name].units)
    return trace


def spread(channels: Channels, shape: tuple[int, ...]) -> Array:
    """The unit of every element of a tensor of this shape."""
    view = [1] * len(shape)
    view[channels.axis] = -1
    return np.broadcast_to(channels.units.reshape(view), shape)


def gather(elements: Array) -> Channels | None:
    """The inverse of ``spread``: the one axis that the units follow, or ``None`` where there is no such axis."""
    for axis in range(elements.ndim):
        first = elements[tuple(slice(None) if other == axis else slice(0, 1) for other in range(elements.ndim))]
        if np.array_equal(np.broadcast_to(first, elements.shape), elements):
            return Channels(axis, first.reshape(-1).astype(np.int64))
    return None
