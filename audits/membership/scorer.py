"""Class scores of the exact bytes for every record, one record at a time through the device's own session factory.

Where the graph ends in a softmax or in quantisers, the scores before them are read: whoever holds the file can cut the tail off,
and a quantised softmax has too few levels for any attack. The cut graph is the same bytes with another tensor named as output; it
counts only if its softmax agrees with the real output, and the real output is used otherwise. ``access`` says which it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from audits.bridge.graph import BridgeError, parse_graph
from audits.bridge.tap import Tail, Tap, find_tap
from audits.class_scores import is_distribution, score_rows, settle_tail
from audits.data import Floats
from audits.membership.scores import Doubles, log_of_probabilities, log_softmax
from device_client.errors import FormatError
from device_client.inference.session import open_session
from device_client.inference.walker import CheckedModel, check_model

_PARITY_ROWS = 16
_PARITY = 1e-3
_QUANTISED_PARITY = 0.1  # mean total variation: quantisers before and after the softmax are cut, and the first may have wide steps


@dataclass(frozen=True)
class Scored:
    """What a model says about all records.

    Attributes:
        log_probabilities: float64, (N, C).
        access: which tensor was read, in plain words.
    """

    log_probabilities: Doubles
    access: str


def score_model(model: CheckedModel, x: Floats, *, features: tuple[str, ...] = ()) -> Scored:
    """Log-probabilities of every record.

    Raises:
        BridgeError: outputs that are no scores over classes (``bridge_scores``), or not one float input (``bridge_inputs``).
        FormatError: the runtime refuses the model or fails on it.
        UsageError: the records do not fit the model (``input_mismatch``).
    """
    if len(model.inputs) != 1 or model.inputs[0].dtype != "float32":
        raise BridgeError("not exactly one float32 input", code="bridge_inputs", where=str(model.digest))
    if len(model.outputs) != 1:
        raise BridgeError("not exactly one output", code="bridge_scores", where=str(model.digest), actual=len(model.outputs))
    tap = _tap(model)
    if tap is not None and tap.cut:
        found = _scored_at(model, tap, x, features=features)
        if found is not None:
            return found
    outputs = _outputs(model, x)
    quantum = None if tap is None else tap.quantum
    tail = settle_tail(Tail.NONE if tap is None else tap.tail, outputs, quantum=quantum, where=model.outputs[0].name)
    if tail is Tail.LOG_SOFTMAX:
        return Scored(log_softmax(outputs), "output, log-probabilities")
    if tail in {Tail.SOFTMAX, Tail.PROBABILITIES}:
        return Scored(log_of_probabilities(outputs), "output, probabilities")
    return Scored(log_softmax(outputs), "output, logits")


def _tap(model: CheckedModel) -> Tap | None:
    """None where the graph cannot be read by the bridge; that the output is no score is an error all the same."""
    try:
        return find_tap(parse_graph(model.data), output=model.outputs[0].name)
    except BridgeError as e:
        if e.code == "bridge_scores":
            raise
        return None


def _scored_at(model: CheckedModel, tap: Tap, x: Floats, *, features: tuple[str, ...]) -> Scored | None:
    """Scores at the tap; None where the cut graph does not run, or is another function."""
    cut = _cut(model, tap.logits, features=features)
    if cut is None:
        return None
    try:
        few = x[:_PARITY_ROWS]
        real, logits = _outputs(model, few), _outputs(cut, few)
        made = logits if tap.tail is Tail.NONE else log_softmax(logits)
        differences = np.abs((np.exp(made) if tap.tail is Tail.SOFTMAX else made) - real)
        if differences.max() > _PARITY and (tap.quantum is None or differences.sum(axis=1).mean() / 2 > _QUANTISED_PARITY):
            return None
        outputs = _outputs(cut, x)
    except (FormatError, BridgeError):
        return None
    if tap.tail is Tail.NONE and is_distribution(outputs):
        return Scored(log_of_probabilities(outputs), f"probabilities before {' '.join(tap.cut)}")
    return Scored(log_softmax(outputs), f"scores before {' '.join(tap.cut)}")


def _cut(model: CheckedModel, tensor: str, *, features: tuple[str, ...]) -> CheckedModel | None:
    """The same graph with ``tensor`` as its output; None where the file has no such tensor or the walker refuses it."""
    proto = onnx.load_model_from_string(model.data)
    if not any(tensor in node.output for node in proto.graph.node):
        return None
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    try:
        return check_model(proto.SerializeToString(), features=features, where="tapped model")
    except FormatError:
        return None


def _outputs(model: CheckedModel, x: Floats) -> Doubles:
    """The one output, (N, C) float64, each record alone.

    Raises:
        BridgeError: not a row of at least two finite numbers for each record.
    """
    name, result = model.inputs[0].name, model.outputs[0].name
    with open_session(model, threads=1) as session:
        rows = [session.run({name: np.ascontiguousarray(x[index : index + 1])})[result] for index in range(len(x))]
    return score_rows(rows, where=result)
