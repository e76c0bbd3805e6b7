"""What a model of ours asks of a device beyond plain standard operators, in the words of the contract's ``features``.

The walker refuses control flow and foreign operator domains that the signed contract does not name. The packager reads
the names from the bytes, so that a technique cannot forget them, and the contract takes those of every variant that
ships. Only for bytes that the packager made or has accepted: a file from outside is judged by ``onnx_file.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from device_client.bundle.features import KNOWN_FEATURES
from device_client.inference.onnx_schema import CONTROL_FLOW
from device_client.inference.walker import CheckedModel, check_model
from packager.graphs import STANDARD_DOMAINS, Graph, all_nodes, is_standard, subgraphs


def features_of(data: bytes) -> tuple[str, ...]:
    """The contract's ``features`` that this model needs, sorted; empty for a plain graph of standard operators."""
    return graph_features(onnx.load_from_string(data).graph)


def graph_features(graph: Graph) -> tuple[str, ...]:
    """As ``features_of``, of a parsed graph; only names that this version of the device knows."""
    found = set()
    for node in all_nodes(graph):
        if is_standard(node, *CONTROL_FLOW) or any(True for _ in subgraphs(node)):
            found.add(f"control-flow:{node.op_type}")
        if node.domain not in STANDARD_DOMAINS:
            found.add(f"domain:{node.domain}")
    return tuple(sorted(found & KNOWN_FEATURES))


def features_of_all(models: Iterable[CheckedModel]) -> tuple[str, ...]:
    """What a contract over all these variants must name."""
    return tuple(sorted({name for model in models for name in features_of(model.data)}))


def check_own(data: bytes, *, where: str = "model") -> CheckedModel:
    """Walks a model that the packager made, under the features that it needs itself.

    Raises:
        FormatError: the walker refuses it all the same.
        LimitError: beyond a bound.
    """
    check_model(data, features=KNOWN_FEATURES, where=where)  # before anything else reads them
    return check_model(data, features=features_of(data), where=where)
