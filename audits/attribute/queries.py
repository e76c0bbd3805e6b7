"""What the model says to a record with each possible value of the sensitive column: the attacker's only use of the model.

The shipped bytes through the device's session, one record at a time. No gradient is needed, so an operator that the bridge
does not know does not matter here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from audits.attribute.columns import Column
from audits.bridge.graph import BridgeError
from audits.class_scores import score_rows, told_briefly
from audits.data import Floats, Integers
from device_client.errors import FormatError
from device_client.inference.session import open_session
from device_client.inference.walker import CheckedModel

Doubles = npt.NDArray[np.float64]
_FLOOR = 1e-7  # float32 softmax and quantised outputs have exact zeros
_SUM_TOLERANCE = 0.05  # a quantised softmax does not sum to 1


def probabilities(model: CheckedModel, x: Floats) -> Doubles:
    """Class probabilities, (N, C); logits and their logarithms are recognised by their values.

    Raises:
        FormatError: not one float32 input and one row of scores (``attribute_scores``).
        UsageError: the records do not fit the input (``input_mismatch``).
    """
    if len(model.inputs) != 1 or model.inputs[0].dtype != "float32" or len(model.outputs) != 1:
        raise _no_scores(model, f"{len(model.inputs)} inputs, {len(model.outputs)} outputs")
    given, result = model.inputs[0].name, model.outputs[0].name
    with open_session(model, threads=1) as session:
        rows = [session.run({given: np.ascontiguousarray(x[index : index + 1])})[result] for index in range(len(x))]
    try:
        scores = score_rows(rows, where=result)
    except BridgeError as e:
        raise _no_scores(model, told_briefly(e)) from e
    if (scores >= 0).all() and np.abs(scores.sum(axis=1) - 1.0).max() <= _SUM_TOLERANCE:
        return scores
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    result_: Doubles = scores / scores.sum(axis=1, keepdims=True)
    return result_


def label_likelihoods(model: CheckedModel, x: Floats, y: Integers, column: Column) -> Doubles:
    """Logarithm of the probability of each record's own label under each value of the column, (N, K).

    Args:
        model: the bytes.
        x: records, (N, F); their own values in the column are overwritten, so nothing of them can come through.
        y: labels, (N,).
        column: the sensitive one.

    Raises:
        FormatError: as ``probabilities``, or a label beyond the classes.
    """
    result = np.empty((len(x), len(column.values)))
    for code, value in enumerate(column.values):
        tried = x.copy()
        tried[:, column.index] = value
        found = probabilities(model, tried)
        if int(y.max()) >= found.shape[1]:
            raise _no_scores(model, f"{found.shape[1]} classes, and a label {int(y.max())}")
        result[:, code] = np.log(np.maximum(found[np.arange(len(x)), y], _FLOOR))
    return result


def _no_scores(model: CheckedModel, actual: str) -> FormatError:
    return FormatError(
        "the model does not give one row of class scores for one float input",
        code="attribute_scores",
        where=str(model.digest),
        actual=actual,
    )
