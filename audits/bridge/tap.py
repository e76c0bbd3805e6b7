"""Where to tap the scores: before the trailing softmax and the output's quantiser.

A quantised softmax has few output levels and mostly exact zeros, so its gradient is masked: an attack on it looks weak and
the audit would report a privacy gain that does not exist (measured in ``docs/audit-method.md``). Whoever holds the file
can cut the tail off, so the audit does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from audits.bridge.graph import BridgeError, Graph, Node

_PASS_THROUGH = {"Identity", "Dropout", "Cast"}
_RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_ROWS = {"Gemm", "Flatten"}  # always of two dimensions
_NOT_SCORES = {"ArgMax", "ArgMin", "TopK", "Sigmoid", "HardSigmoid", "Round", "Floor", "Ceil", "Sign", "OneHot"}


class Tail(Enum):
    """What the output is, relative to the tapped logits."""

    SOFTMAX = "softmax"
    LOG_SOFTMAX = "log_softmax"
    PROBABILITIES = "probabilities"  # without a softmax node: told from numbers (``class_scores``), never from a graph
    NONE = "none"


@dataclass(frozen=True)
class Tap:
    """A tapped graph.

    Attributes:
        output: name of the score output.
        logits: name of the tensor that the attacks differentiate; equals ``output`` where there is no tail.
        tail: how ``output`` follows from ``logits``.
        cut: operators between the two, from the logits to the output.
        quantum: step of the output's quantiser in units of ``output``, or None where the graph is not quantised there.
    """

    output: str
    logits: str
    tail: Tail
    cut: tuple[str, ...]
    quantum: float | None


def find_tap(graph: Graph, *, output: str) -> Tap:
    """Walks back from ``output`` through quantisers and one softmax, and through reshapes after the softmax.

    Raises:
        BridgeError: the output is a label or an independent score, not scores over classes.
    """
    cut: list[str] = []
    tail = Tail.NONE
    name, quantum, softmax_seen_first = output, None, False
    plain: Tap | None = None  # what it is if no softmax is behind the reshapes
    while (node := graph.producer(name)) is not None:
        if node.op in _NOT_SCORES:
            raise BridgeError(
                f"the output comes from {node.op} and is not scores over classes", code="bridge_scores", where=node.name or output
            )
        if node.op in {"Softmax", "LogSoftmax"} and tail is Tail.NONE:
            if plain is not None and not _is_flat(graph, node):
                break
            tail = Tail.SOFTMAX if node.op == "Softmax" else Tail.LOG_SOFTMAX
            softmax_seen_first = quantum is None
        elif node.op == "QuantizeLinear":
            # softmax is 1/2-Lipschitz from the largest logit error to the largest probability error
            step = _scale(graph, node)
            quantum = quantum if quantum is not None else (step / 2 if softmax_seen_first else step)
        elif node.op in _RESHAPES and tail is Tail.NONE:
            plain = plain or Tap(output=output, logits=name, tail=tail, cut=tuple(reversed(cut)), quantum=quantum)
        elif node.op not in _PASS_THROUGH and not _dequantises(graph, node):
            break
        cut.append(node.op)
        name = node.inputs[0]
    if plain is not None and tail is Tail.NONE:
        return plain
    return Tap(output=output, logits=name, tail=tail, cut=tuple(reversed(cut)), quantum=quantum)


def _is_flat(graph: Graph, softmax: Node) -> bool:
    """Whether it is surely over the classes of (N, C): then a reshape after it moves nothing, and its input is one row each."""
    made = graph.producer(softmax.inputs[0])
    while made is not None and (made.op == "QuantizeLinear" or _dequantises(graph, made)):
        made = graph.producer(made.inputs[0])
    return made is not None and made.op in _ROWS


def _dequantises(graph: Graph, node: Node) -> bool:
    """The second half of a pair. Where something else made the integers, they are no scores, and the walk ends."""
    producer = graph.producer(node.inputs[0]) if node.op == "DequantizeLinear" else None
    return producer is not None and producer.op == "QuantizeLinear"


def _scale(graph: Graph, node: Node) -> float:
    scale = graph.constants.get(node.inputs[1])
    if scale is None:
        raise BridgeError("quantiser with a computed scale", code="bridge_operator", where=node.name or node.op)
    return float(scale.max())
