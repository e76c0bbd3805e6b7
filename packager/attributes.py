"""Drops attributes that say what their absence means: optimisers write out every default, some forty bytes for a convolution.

Part of ``shrink.py``. Only operators of the standard domain, whose defaults the operator's own schema names, and the sizes
of windows, whose defaults its text names (ONNX, Conv and MaxPool: dilations and strides 1, pads 0 along each axis).
"""

from __future__ import annotations

from typing import Any

import onnx

from packager.graphs import STANDARD_DOMAINS, Graph, all_nodes, is_standard

_WINDOWED = ("AveragePool", "Conv", "ConvInteger", "ConvTranspose", "LpPool", "MaxPool", "QLinearConv")
_EVERYWHERE = {"dilations": 1, "strides": 1, "pads": 0}


def drop_default_attributes(graph: Graph, *, opset: int) -> None:
    """Drops them in the graph and its subgraphs."""
    for node in all_nodes(graph):
        if node.domain in STANDARD_DOMAINS and node.attribute:
            kept = [item for item in node.attribute if not _is_default(node, item, opset)]
            if len(kept) != len(node.attribute):
                del node.attribute[:]
                node.attribute.extend(kept)


def _is_default(node: Any, attribute: Any, opset: int) -> bool:
    if is_standard(node, *_WINDOWED) and attribute.name in _EVERYWHERE:
        return all(value == _EVERYWHERE[attribute.name] for value in attribute.ints)
    try:
        known = onnx.defs.get_schema(node.op_type, opset, "").attributes.get(attribute.name)
    except onnx.defs.SchemaError:
        return False
    default = None if known is None else known.default_value
    if default is None or default.type != attribute.type or default.type == onnx.AttributeProto.UNDEFINED:
        return False
    return bool(onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(attribute))
