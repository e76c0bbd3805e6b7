"""Fits the layers of a pruned graph to what they computed before, by least squares on calibration rows. No training.

Layer by layer in the order of the graph: the columns come from the pruned model as it is by then, the wanted outputs from
the original (He, Zhang and Sun 2017, section 3.1, second step). We differ in solving for the *change* of the weights with
a ridge, so that directions that the rows say nothing about stay as they were, and in choosing the ridge, or no change at
all, by every fourth row, which the fit does not see.

Cost: one pass of the original, and one of the pruned graph per layer. Linear algebra of K by K, K up to ``MAX_COLUMNS``;
wider layers get their mean output restored by the bias alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from packager.data import Dataset
from packager.prune_onnx.cut import stays
from packager.prune_onnx.graph import Array, GraphView, run_batches
from packager.prune_onnx.layer import Floats, LinearLayer, linear_layer, matrix, read_columns, read_outputs, weights
from packager.prune_onnx.select import BATCH_ROWS, MAX_COLUMNS, SAMPLES
from packager.prune_onnx.trace import Mixer, Trace

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean diagonal of H
_WANTED_BYTES = 256 * 1024 * 1024  # of the original's sampled outputs, all layers together
_HOLD_OUT = 4


@dataclass(frozen=True)
class Refit:
    """One layer: share of its output's variance that differed before and after, on the held-out rows."""

    node: int
    before: float
    after: float


def refit_layers(
    trace: Trace,
    original: bytes,
    model: Any,
    removed: Collection[int],
    rows: Dataset,
    *,
    seed: int,
    only: Collection[int] | None = None,
) -> list[Refit]:
    """Changes the weights and biases of ``model`` (from ``cut_channels``) in place; says what it did to which layer.

    ``only``: positions of the nodes to fit; all layers where it is ``None``.
    """
    view = GraphView(model.SerializeToString(deterministic=True), rows)
    mixers = [
        mixer
        for mixer in trace.mixers
        if trace.view.nodes[mixer.node].input[0] not in rows.inputs and (only is None or mixer.node in only)
    ]
    budget = _WANTED_BYTES // max(1, 4 * sum(len(mixer.outputs) for mixer in mixers))
    positions = max(1, min(SAMPLES, budget) // len(rows))
    layers = {mixer.node: layer for mixer in mixers if (layer := linear_layer(view, mixer.node, positions=positions)) is not None}
    wanted = _wanted_outputs(trace, original, [mixer for mixer in mixers if mixer.node in layers], removed, rows, positions, seed)
    done = []
    for at, layer in layers.items():
        if (result := _refit(view, model, layer, wanted[at], rows, seed=seed)) is not None:
            done.append(result)
    return done


def _wanted_outputs(
    trace: Trace, original: bytes, mixers: list[Mixer], removed: Collection[int], rows: Dataset, positions: int, seed: int
) -> dict[int, list[Array]]:
    """Per layer and batch what the original gives at the sampled positions, channels that stay only: float32."""
    found: dict[int, list[Array]] = {mixer.node: [] for mixer in mixers}
    layers = {mixer.node: linear_layer(trace.view, mixer.node, positions=positions) for mixer in mixers}
    masks = {mixer.node: stays(trace, mixer.outputs, removed) for mixer in mixers}
    names = [trace.view.nodes[at].output[0] for at in found]
    for number, values in enumerate(run_batches(original, names, rows, batch=BATCH_ROWS) if names else ()):
        for at, layer in layers.items():
            if layer is not None:
                outputs = read_outputs(layer, values[layer.node.output[0]], _rng(seed, at, number))
                found[at].append(outputs[:, masks[at]].astype(np.float32))
    return found


def _refit(view: GraphView, model: Any, layer: LinearLayer, wanted: list[Array], rows: Dataset, *, seed: int) -> Refit | None:
    place = _bias_place(view, layer)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = numpy_helper.to_array(constants[model.graph.node[layer.index].input[1]])
    current = matrix(layer, weight)
    bias = _bias(model, constants, place, layer)
    with_bias = np.concatenate([current, bias.reshape(layer.groups, 1, -1)], axis=1) if place else current
    whole = with_bias.shape[1] <= MAX_COLUMNS
    if not whole and place is None:
        return None
    sums = _normal_equations(model, layer, wanted, with_bias, rows, seed=seed, constant=place is not None)
    fit, held = sums[False], sums[True]
    if held.gap <= 1e-9 * held.variance or fit.samples == 0 or held.samples == 0:
        return None
    change, gap = _best_change(fit, held)
    if change is None:
        return None
    values = with_bias.copy()
    values[:, 0 if whole else -1 :] += change
    _store(model, layer.index, 1, weights(layer, values[:, : current.shape[1]], shape=weight.shape))
    if place is not None:
        _store(model, *place, values[:, -1].reshape(-1).astype(np.float32))
    scale = held.variance or 1.0
    return Refit(layer.index, held.gap / scale, gap / scale)


@dataclass
class _Sums:
    """Normal equations over samples: H = X'X, moment = X'(Y - XW); ``gap``: |Y - XW|^2; ``variance``: of Y, summed."""

    h: Floats
    moment: Floats
    gap: float = 0.0
    variance: float = 0.0
    samples: int = 0


def _normal_equations(
    model: Any, layer: LinearLayer, wanted: list[Array], values: Floats, rows: Dataset, *, seed: int, constant: bool
) -> dict[bool, _Sums]:
    """For the rows of the fit (False) and those held out (True)."""
    whole = values.shape[1] <= MAX_COLUMNS
    size = values.shape[1] if whole else 1
    sums = {
        held: _Sums(np.zeros((layer.groups, size, size)), np.zeros((layer.groups, size, values.shape[2]))) for held in (False, True)
    }
    name, row = layer.node.input[0], 0
    batches = run_batches(model.SerializeToString(deterministic=True), [name], rows, batch=BATCH_ROWS)
    for number, (found, target) in enumerate(zip(batches, wanted, strict=True)):
        columns = read_columns(layer, found[name], _rng(seed, layer.index, number))
        if constant:
            columns = np.concatenate([columns, np.ones((*columns.shape[:2], 1))], axis=2)
        outputs = target.astype(np.float64).reshape(len(target), layer.groups, -1).transpose(1, 0, 2)
        gaps = outputs - columns @ values
        if not whole:
            columns = np.ones((*columns.shape[:2], 1))
        count = len(found[name])
        held_rows = (np.arange(row, row + count) % _HOLD_OUT) == _HOLD_OUT - 1
        row += count
        mask = np.repeat(held_rows, columns.shape[1] // count)
        for held, part in sums.items():
            chosen = mask if held else ~mask
            x, gap = columns[:, chosen], gaps[:, chosen]
            part.h += x.transpose(0, 2, 1) @ x
            part.moment += x.transpose(0, 2, 1) @ gap
            part.gap += float(np.square(gap).sum())
            part.variance += float(np.square(outputs[:, chosen] - outputs.mean(axis=1, keepdims=True)).sum())
            part.samples += int(chosen.sum())
    return sums


def _best_change(fit: _Sums, held: _Sums) -> tuple[Floats | None, float]:
    """The change of the weights whose ridge does best on the held-out rows, solved on all rows, and its gap there."""
    best, gap = None, held.gap
    for ridge in RIDGES:
        change = _solve(fit.h, fit.moment, ridge)
        left = held.gap - 2 * float(np.sum(change * held.moment)) + float(np.sum(change * (held.h @ change)))
        if left < gap:
            best, gap = ridge, left
    if best is None:
        return None, gap
    return _solve(fit.h + held.h, fit.moment + held.moment, best), max(gap, 0.0)


def _solve(h: Floats, moment: Floats, ridge: float) -> Floats:
    """Each column's ridge is relative to its own energy, so that the unit of an input does not matter."""
    diagonal = np.diagonal(h, axis1=1, axis2=2)
    added = ridge * diagonal + 1e-9 * (1.0 + diagonal.max(axis=1, keepdims=True))
    return np.asarray(np.linalg.solve(h + added[:, :, None] * np.eye(h.shape[1]), moment))


def _bias_place(view: GraphView, layer: LinearLayer) -> tuple[int, int] | None:
    """(node, input) that holds the layer's bias, or could; ``None`` for a product whose result is not shifted by a constant."""
    if layer.node.op_type != "MatMul":
        return layer.index, 2
    name = layer.node.output[0]
    users = [(at, node) for at, node in enumerate(view.nodes) if name in node.input]
    if len(users) != 1 or users[0][1].op_type != "Add" or name in view.outputs or name in view.captured:
        return None
    at, node = users[0]
    index = 1 - list(node.input).index(name)
    other = view.constant(node, index)
    return (at, index) if other is not None and other.shape == (layer.outputs,) else None


def _bias(model: Any, constants: Mapping[str, Any], place: tuple[int, int] | None, layer: LinearLayer) -> Floats:
    count = layer.groups * layer.outputs
    inputs = model.graph.node[place[0]].input if place else ()
    if place is None or len(inputs) <= place[1] or not inputs[place[1]]:
        return np.zeros(count)
    return np.broadcast_to(numpy_helper.to_array(constants[inputs[place[1]]]).reshape(-1), (count,)).astype(np.float64)


def _store(model: Any, node: int, index: int, array: Array) -> None:
    """A new constant for this input alone, in place of the old one."""
    name, inputs = f"sealift:{node}:{index}", model.graph.node[node].input
    while len(inputs) <= index:
        inputs.append("")
    old = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
    tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
    if old is None:
        model.graph.initializer.append(tensor)
    else:
        old.CopyFrom(tensor)
    inputs[index] = name


def _rng(seed: int, node: int, batch: int) -> np.random.Generator:
    return np.random.default_rng([seed, node, batch])
