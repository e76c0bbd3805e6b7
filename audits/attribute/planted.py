"""Models for the controls: a template table that gives away the sensitive value of some members, and nothing else.

The table holds members with the code of their sensitive value. A record that matches one in every column raises the score of
that record's label; with any other value in the sensitive column it does not. So whoever knows the other columns finds the
value by trying. At share 0 the table is empty: a classifier that does not use the column, a null control.

What a caught table does not show: power against a model that remembers less exactly. The unit of strength is the share of
members that are in the table, each of which is given away for sure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from audits.attribute.columns import Column
from audits.data import Bools, Floats, Integers

Doubles = npt.NDArray[np.float64]
_GAIN = 8.0
_GIVEN, _RESULT = ">", "<"  # stand for the names of input and output, which may be any, also those of values in between
_REACH = 0.25  # squared distance, in standard deviations, at which a match has faded
_STEP = 4.0  # distance between neighbouring values of the sensitive column, in standard deviations


def planted_twin(
    x: Floats, y: Integers, member: Bools, column: Column, *, share: float, classes: int, seed: int, names: tuple[str, str]
) -> bytes:
    """ONNX bytes of a classifier with a table of ``share`` of the members.

    Args:
        x: records, (N, F).
        y: labels, (N,).
        member: (N,).
        column: the sensitive one; the table holds its values as the attacker tries them.
        share: of members, in [0, 1].
        classes: of the output.
        seed: which members.
        names: of input and output.
    """
    inside = np.flatnonzero(member)
    count = round(share * len(inside))
    rows = np.random.default_rng([seed, 24]).permutation(inside)[: max(1, count)]
    centre, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = 1.0 / np.where(spread > 1e-9, spread, 1.0)
    gaps = np.diff(np.sort(column.values.astype(np.float64)))
    scale[column.index] = _STEP / gaps.min()
    table = x[rows].astype(np.float64)
    table[:, column.index] = column.values[column.codes[rows]]
    table = (table - centre) * scale
    gain = np.eye(classes)[y[rows]] * (_GAIN if count else 0.0)
    weights, bias = _class_means(x, y, column, centre=centre, scale=scale, classes=classes)
    values = {
        "centre": centre,
        "scale": scale,
        "table": -2.0 * table.T / _REACH,
        "lengths": (table**2).sum(axis=1) / _REACH - 1.0,
        "reach": np.array(1.0 / _REACH),
        "gain": gain,
        "weights": weights,
        "bias": bias,
    }
    return _build(values, features=x.shape[1], classes=classes, names=names)


def _class_means(
    x: Floats, y: Integers, column: Column, *, centre: Doubles, scale: Doubles, classes: int
) -> tuple[Doubles, Doubles]:
    """A nearest-mean classifier of the other columns: something for the table to stand on."""
    z = (x - centre) * scale
    z[:, column.index] = 0.0
    means = np.stack([z[y == label].mean(axis=0) if (y == label).any() else np.zeros(x.shape[1]) for label in range(classes)])
    length = float(np.sqrt(x.shape[1]))
    return means.T / length, -0.5 * (means**2).sum(axis=1) / length


def _build(values: dict[str, Doubles], *, features: int, classes: int, names: tuple[str, str]) -> bytes:
    given, result = names

    def node(operator: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        mine = [given if item == _GIVEN else f"planted/{item}" for item in inputs]
        name = result if output == _RESULT else f"planted/{output}"
        return helper.make_node(operator, mine, [name], name=f"planted/{output}/{operator}", **attributes)

    nodes = [
        node("Sub", [_GIVEN, "centre"], "centred"),
        node("Mul", ["centred", "scale"], "z"),
        node("ReduceSumSquare", ["z"], "square", axes=[1], keepdims=1),
        node("Mul", ["square", "reach"], "near"),
        node("MatMul", ["z", "table"], "towards"),
        node("Add", ["near", "towards"], "part"),
        node("Add", ["part", "lengths"], "beyond"),  # (distance / reach) - 1
        node("Neg", ["beyond"], "within"),
        node("Relu", ["within"], "matches"),
        node("MatMul", ["matches", "gain"], "given_away"),
        node("MatMul", ["z", "weights"], "along"),
        node("Add", ["along", "bias"], "usual"),
        node("Add", ["usual", "given_away"], "logits"),
        node("Softmax", ["logits"], _RESULT, axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), f"planted/{name}") for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
