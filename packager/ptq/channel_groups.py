"""Which layers of a graph must scale their channels together for the outputs to stay the same.

A value's channels may be divided by positive factors if every layer that makes it divides its rows and every layer that reads
it multiplies its columns. Positively homogeneous operators (Relu, pooling, an addition of two such values) pass the factors
on, so values that they join form one group: a chain of two layers, or the trunk of a residual network with all its branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from packager.ptq.graph import GraphView, Layer, attribute, layers

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_FLATTENS = frozenset({"Flatten", "Reshape"})
_PASSES = frozenset({"Relu", "LeakyRelu"}) | _POOLS | _FLATTENS


@dataclass(frozen=True)
class ChannelGroup:
    """Layers that make and layers that read the same channels. ``values``: those in between, in graph order."""

    makers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    values: tuple[str, ...]
    channels: int

    @property
    def channel_axis(self) -> int:
        """Of a value: 1 after convolutions, the last after products."""
        return 1 if self.makers[0].node.op_type == "Conv" else -1


def channel_groups(view: GraphView) -> tuple[ChannelGroup, ...]:
    """The groups that can be scaled; node names must be set."""
    usable = {layer.name: layer for layer in layers(view) if _is_usable(view, layer)}
    members: dict[str, list[str]] = {}
    root = _joined(view)
    for node in view.model.graph.node:
        for name in node.output:
            members.setdefault(root(name), []).append(name)
    found = (_group(view, values, usable) for values in members.values())
    return tuple(group for group in found if group is not None)


def input_count(view: GraphView, layer: Layer) -> int:
    """How many channels a layer reads."""
    dims = view.tensors[layer.weight].dims
    if layer.node.op_type == "Conv":
        return int(dims[1]) * int(attribute(layer.node, "group", 1))
    return int(dims[1 - layer.axis])


def _is_usable(view: GraphView, layer: Layer) -> bool:
    node, rank = layer.node, len(view.tensors[layer.weight].dims)
    if node.op_type == "ConvTranspose" or attribute(node, "transA", 0) or not view.is_private(layer.weight):
        return False
    plain = all(float(attribute(node, name, 1.0)) == 1.0 for name in ("alpha", "beta"))
    bias = layer.bias is None or (view.is_float(layer.bias) and len(view.tensors[layer.bias].dims) == 1)
    return plain and bias and (node.op_type == "Conv" or rank == 2)


def _joined(view: GraphView) -> Any:
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.get(name, name) != name:
            name = parent[name]
        return name

    for node in view.model.graph.node:
        for name in _through(view, node):
            parent[root(name)] = root(node.output[0])
    return root


def _through(view: GraphView, node: Any) -> Iterator[str]:
    """The values whose factors a node hands on to its output."""
    if node.op_type in _PASSES and len(node.output) == 1 and _keeps_channels(view, node):
        yield node.input[0]
    elif node.op_type == "Add" and not any(name in view.tensors for name in node.input):
        yield from node.input


def _keeps_channels(view: GraphView, node: Any) -> bool:
    if node.op_type == "Flatten":
        return int(attribute(node, "axis", 1)) == 1
    if node.op_type == "Reshape":  # (batch, all the rest)
        return node.input[1] in view.tensors and view.array(node.input[1]).size == 2
    return True


def _group(view: GraphView, values: list[str], usable: dict[str, Layer]) -> ChannelGroup | None:
    makers: list[Layer] = []
    readers: list[Layer] = []
    inside = set(values)
    for value in values:
        if value in view.outputs:
            return None
        maker = view.producers[value]
        if maker.name in usable:
            makers.append(usable[maker.name])
        elif not inside.issuperset(_through(view, maker)) or not list(_through(view, maker)):
            return None
        for reader in view.consumers.get(value, []):
            if reader.name in usable and reader.input[0] == value:
                readers.append(usable[reader.name])
            elif not set(_through(view, reader)) & {value} or reader.output[0] not in inside:
                return None
    if not makers or not readers:
        return None
    group = ChannelGroup(tuple(makers), tuple(readers), tuple(values), int(view.tensors[makers[0].weight].dims[makers[0].axis]))
    return group if _fits(view, group) else None


def _fits(view: GraphView, group: ChannelGroup) -> bool:
    kinds = {layer.node.op_type == "Conv" for layer in group.makers}
    same = {int(view.tensors[layer.weight].dims[layer.axis]) for layer in group.makers} == {group.channels}
    if len(kinds) > 1 or not same:
        return False
    between = {view.producers[value].op_type for value in group.values}
    if group.makers[0].node.op_type != "Conv":
        return not between & (_POOLS | _FLATTENS) and all(
            layer.node.op_type != "Conv" and input_count(view, layer) == group.channels for layer in group.readers
        )
    return all(_reads_channels(view, layer, group.channels) for layer in group.readers)


def _reads_channels(view: GraphView, layer: Layer, channels: int) -> bool:
    """True if the layer contracts over the channels of a convolution's output."""
    if layer.node.op_type == "Conv":
        return input_count(view, layer) == channels
    return input_count(view, layer) % channels == 0 and view.producers[layer.node.input[0]].op_type in _FLATTENS
