"""Carries out a trace: constants lose the slices of the channels that go, shapes and group counts follow.

Each use of a constant gets a copy of its own, for two layers may share one and lose different parts of it; equal copies
are merged again by the shrinker. Does not touch what the remaining weights are: that is ``refit.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from packager.prune_onnx.trace import Trace
from packager.prune_onnx.units import Ids

Array = NDArray[Any]


def cut_channels(trace: Trace, removed: Collection[int]) -> Any:
    """The graph without the channels of the removed sets (roots of units), as an ONNX model with the same nodes.

    Constants have names of their own per use: ``node:input``.
    """
    model = onnx.ModelProto()
    model.CopyFrom(trace.view.model)
    nodes = model.graph.node
    for at, index, array in _constants(trace, removed):
        name = f"sealift:{at}:{index}"
        nodes[at].input[index] = name
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    for at, units in trace.grouped:
        count = int(stays(trace, units, removed).sum())
        for attribute in nodes[at].attribute:
            if attribute.name == "group":
                attribute.i = count
    used = {name for node in nodes for name in node.input} | trace.view.outputs | trace.view.captured
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.ClearField("value_info")
    return model


def stays(trace: Trace, units: Ids, removed: Collection[int]) -> NDArray[np.bool_]:
    """For each position, whether its unit stays."""
    return ~np.isin(trace.units.roots(units), np.fromiter(removed, dtype=np.int64, count=len(removed)))


def _constants(trace: Trace, removed: Collection[int]) -> list[tuple[int, int, Array]]:
    """(node, input, array) of every constant that changes, in the order of the nodes."""
    arrays: dict[tuple[int, int], Array] = {}
    for item in trace.slices:
        mask = stays(trace, item.units, removed)
        if not bool(mask.all()):
            key = (item.node, item.index)
            array = arrays.get(key, trace.view.constants[trace.view.nodes[item.node].input[item.index]])
            arrays[key] = np.compress(mask, array, axis=item.axis)
    for resize in trace.resizes:
        mask = stays(trace, resize.units, removed)
        key = (resize.node, resize.index)
        shape = trace.view.constants[trace.view.nodes[resize.node].input[resize.index]].copy()
        if not bool(mask.all()) and shape[resize.axis] > 0:  # 0 copies and -1 follows from the rest
            shape[resize.axis] = int(mask.sum())
            arrays[key] = shape
    return [(at, index, array) for (at, index), array in sorted(arrays.items(), key=lambda item: item[0])]
