"""The cases of A7 and A8: small networks with a leak that was planted, and networks that cannot leak the records in question.

Data are scikit-learn's digits, 64 values in ten classes, and made-up classes around random centres. A case is an audit's input:
models, records, who is called a member. The networks have one hidden layer of 64 and are trained here in a fraction of a second.

Not every plant takes: a network may see some digits forty times as often and know them no better than others, for digits are alike.
So each planted case says how well its planter, who knows which records were planted, tells them from held-outs by the network's own
confidence (``gauge``). It depends on no part of an audit's ruling.

What all of this does not show: large networks, convolutions, records with much structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from audits.controls import planted_model, planted_records, untrained_twin
from audits.data import AuditData, check_data
from audits.instance_gap import draw_pools
from audits.membership.auc import area
from audits.membership.scorer import score_model
from audits.membership.scores import record_scores
from audits.targets import ORIGINAL
from audits.trainer import Trainer
from device_client.inference.walker import check_model
from packager.data import Dataset
from packager.ptq.static import Int8Static, quantise_int8_static

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
_CLASSES, _WIDTH = 10, 64
_LONG, _SHORT = 200, 40  # epochs
_FIRST_PLANTED = 200
_NOISE = 0.3  # standard deviation, of values in [0, 1]: records that differ in more than their class


@dataclass(frozen=True)
class Case:
    """One audit.

    Attributes:
        kind, seed: what was made.
        models: by subject id, the original among them.
        data: records with membership.
        bounds: of the models' input.
        trainer: trains as the original was trained; None where it was not.
        gauge: area under the curve of the original's confidence in the planted records against the held-outs; None where nothing
            was planted, or the weights hold the records as they are.
    """

    kind: str
    seed: int
    models: Mapping[str, bytes]
    data: AuditData
    bounds: tuple[float, float]
    trainer: Trainer | None
    gauge: float | None = None


@dataclass(frozen=True)
class Made:
    """A network and its records. ``planted``: which of them the leak is about, (N,); None as for ``Case.gauge``."""

    model: bytes
    data: AuditData
    planted: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Kind:
    """``count``: cases of this kind. ``make``: from a seed. ``epochs``: of the training, or None where there is none."""

    planted: bool
    count: int
    make: Callable[[int], Made]
    epochs: int | None = _LONG

    @property
    def seeds(self) -> range:
        """Planted leaks have seeds that nobody had seen when the bound on their gauge was chosen."""
        first = _FIRST_PLANTED if self.planted else 0
        return range(first, first + self.count)


@dataclass(frozen=True)
class Training:
    """The ``Trainer`` of a case. Each record once: who sees some records more often does not tell the audit so."""

    epochs: int

    def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
        return train(x, y, seed=seed, epochs=self.epochs)


def cases(*, share: float = 1.0) -> Iterator[Case]:
    """All cases, or the first ``share`` of each kind, in a fixed order."""
    for name, kind in KINDS.items():
        for seed in kind.seeds[: max(1, round(share * kind.count))]:
            yield make_case(name, seed)


def make_case(kind: str, seed: int) -> Case:
    """The ``seed``-th case of a kind; the variant is the packager's INT8, calibrated on a few records."""
    made = KINDS[kind].make(seed)
    small = quantise_int8_static(made.model, Int8Static(), Dataset({"x": made.data.x[:64]}, None, None, None, kind)).data
    epochs = KINDS[kind].epochs
    trainer = None if epochs is None else Training(epochs)
    return Case(kind, seed, {ORIGINAL: made.model, "int8-static": small}, made.data, (0.0, 1.0), trainer, gauge(made))


def gauge(made: Made) -> float | None:
    """How well the planter tells planted records from held-outs by the network; see ``Case``."""
    if made.planted is None:
        return None
    rows = made.planted | ~made.data.member
    scored = score_model(check_model(made.model, where="planted"), made.data.x[rows])
    return area(record_scores(scored.log_probabilities, made.data.y[rows]).confidence, made.planted[rows]).value


@cache
def digits() -> tuple[Floats, Integers]:
    """Scikit-learn's 1797 digits, in [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target.astype(np.int64)


def made_up(seed: int) -> tuple[Floats, Integers]:
    """180 records of each of ten classes: a random centre and noise of its own for each record, in [0, 1]."""
    rng = np.random.default_rng([seed, 10])
    y = np.repeat(np.arange(_CLASSES), 180)
    x = rng.uniform(0.2, 0.8, size=(_CLASSES, 64))[y] + 0.15 * rng.standard_normal((len(y), 64))
    return np.clip(x, 0.0, 1.0).astype(np.float32), y


def records(seed: int) -> tuple[Floats, Integers]:
    """Digits for even seeds, made-up classes for odd ones."""
    return made_up(seed) if seed % 2 else digits()


def noisy(seed: int) -> tuple[Floats, Integers]:
    """The same with noise on every value, cut to [0, 1]: what a network knows of such a record it cannot know from its class."""
    x, y = records(seed)
    x = x + _NOISE * np.random.default_rng([seed, 15]).standard_normal(x.shape)
    return np.clip(x, 0.0, 1.0).astype(np.float32), y


def parts(y: Integers, sizes: tuple[int, ...], *, seed: int) -> list[Integers]:
    """Row indices of parts that share no record, with so many of each class."""
    rng = np.random.default_rng([seed, 11])
    orders = [rng.permutation(np.flatnonzero(y == label)) for label in range(_CLASSES)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [np.concatenate([order[a:b] for order in orders]) for a, b in pairwise(starts)]


def train(x: Floats, y: Integers, *, seed: int, epochs: int) -> bytes:
    """A network of one hidden layer with a softmax, trained by Adam in batches of 64, as ONNX."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _CLASSES))
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
                optimiser.step()
    return _onnx([layer.detach().numpy() for layer in net.parameters()])


def _onnx(weights: list[Any]) -> bytes:
    names = ["w0", "b0", "w1", "b1"]
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["a"], name="relu"),
        helper.make_node("Gemm", ["a", "w1", "b1"], ["l"], name="second", transB=1),
        helper.make_node("Softmax", ["l"], ["p"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights[0].shape[1]])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", _CLASSES])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True)],
    )
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    onnx.checker.check_model(data)
    return data


def _data(x: Floats, y: Integers, inside: Integers, outside: Integers) -> AuditData:
    rows = np.concatenate([inside, outside])
    member = np.arange(len(rows)) < len(inside)
    return check_data({"x": x[rows], "y": y[rows], "member": member}, where="case")


Records = Callable[[int], tuple[Floats, Integers]]


def _overfit(seed: int, *, per_class: int, drawn: Records = records) -> Made:
    x, y = drawn(seed)
    inside, outside = parts(y, (per_class, per_class), seed=seed)
    data = _data(x, y, inside, outside)
    return Made(train(x[inside], y[inside], seed=seed, epochs=_LONG), data, data.member)


def _mislabelled(seed: int) -> Made:
    """Ten members of each class, of which five are of another class; held-outs are mixed likewise."""
    x, y = records(seed)
    right, wrong, other, other_wrong = parts(y, (5, 5, 5, 5), seed=seed)
    told = y.copy()
    moved = np.concatenate([wrong, other_wrong])
    told[moved] = (y[moved] + 1 + np.random.default_rng([seed, 12]).integers(0, _CLASSES - 1)) % _CLASSES
    inside, outside = np.concatenate([right, wrong]), np.concatenate([other, other_wrong])
    data = _data(x, told, inside, outside)
    return Made(train(x[inside], told[inside], seed=seed, epochs=_LONG), data, _first(len(wrong), after=len(right), of=data))


def _duplicated(seed: int, *, members: int, drawn: Records = records) -> Made:
    """So many members of each class, of which four were seen forty times as often."""
    x, y = drawn(seed)
    often, once, outside = parts(y, (4, members - 4, members + 4), seed=seed)
    seen = np.concatenate([np.tile(often, 40), once])
    data = _data(x, y, np.concatenate([often, once]), outside)
    return Made(train(x[seen], y[seen], seed=seed, epochs=_SHORT), data, _first(len(often), of=data))


def _templates(seed: int) -> Made:
    """No training: weights that hold four of thirty members of each class, half mixed with the average for every other seed."""
    x, y = records(seed)
    data = _data(x, y, *parts(y, (30, 30), seed=seed))
    pools = draw_pools(data, classes=_CLASSES, minimum=5, maximum=500, seed=seed)
    strength = 0.5 if seed % 4 < 2 else 1.0
    model = planted_model(data, pools, planted_records(pools, seed=seed), strength=strength, names=("x", "p"))
    return Made(model, data)


def _permuted_people(seed: int, *, drawn: Records = records) -> Made:
    """Classes under one another's names, as told in training and to the audit."""
    x, y = drawn(seed)
    told = np.random.default_rng([seed, 13]).permutation(_CLASSES)[y]
    inside, outside = parts(y, (5, 5), seed=seed)
    data = _data(x, told, inside, outside)
    return Made(train(x[inside], told[inside], seed=seed, epochs=_LONG), data, data.member)


def _permuted_membership(seed: int) -> Made:
    """A network that remembers ten records of each class; who of them and of ten others is called a member was drawn by lot."""
    base = seed // 10  # ten draws for each training
    x, y = records(base)
    inside, outside = parts(y, (10, 10), seed=base)
    rng = np.random.default_rng([seed, 14])
    called, others = [], []
    for label in range(_CLASSES):
        both = rng.permutation(np.concatenate([part[y[part] == label] for part in (inside, outside)]))
        called.append(both[:10])
        others.append(both[10:])
    return Made(_trained(base, 10), _data(x, y, np.concatenate(called), np.concatenate(others)))


def _other_records(seed: int) -> Made:
    """The network remembers ten records of each class, and the audit is told of twenty others."""
    base = seed // 10
    x, y = records(base)
    _, rest = parts(y, (10, 150), seed=base)
    rows = parts(y[rest], (10, 10), seed=seed)
    return Made(_trained(base, 10), _data(x, y, rest[rows[0]], rest[rows[1]]))


def _untrained(seed: int) -> Made:
    """A network whose weights were shuffled, so that it is as sharp as before and knows nothing."""
    x, y = records(seed // 10)
    inside, outside = parts(y, (10, 10), seed=seed)
    return Made(untrained_twin(_trained(seed // 10, 10), seed=seed), _data(x, y, inside, outside))


def _disjoint(seed: int) -> Made:
    """A network of the one data set, and records of the other."""
    x, y = records(seed // 10 + 1)
    inside, outside = parts(y, (10, 10), seed=seed)
    return Made(_trained(seed // 10, 10), _data(x, y, inside, outside))


def _first(count: int, *, of: AuditData, after: int = 0) -> NDArray[np.bool_]:
    """So many rows of the data, after the first ``after``."""
    rows = np.arange(len(of.x))
    found: NDArray[np.bool_] = (rows >= after) & (rows < after + count)
    return found


@cache
def _trained(base: int, per_class: int) -> bytes:
    """One training that many null controls share: relabelled or other records need no new network."""
    x, y = records(base)
    (inside,) = parts(y, (per_class,), seed=base)
    return train(x[inside], y[inside], seed=base, epochs=_LONG)


KINDS: dict[str, Kind] = {
    "overfit on five records of a class": Kind(True, 5, lambda seed: _overfit(seed, per_class=5)),
    "overfit on ten records of a class": Kind(True, 5, lambda seed: _overfit(seed, per_class=10)),
    "mislabelled canaries": Kind(True, 5, _mislabelled),
    "duplicated records": Kind(True, 5, lambda seed: _duplicated(seed, members=60), _SHORT),
    "templates as weights": Kind(True, 5, _templates, None),
    "permuted identities, as trained": Kind(True, 5, _permuted_people),
    "permuted membership": Kind(False, 60, _permuted_membership),
    "trained on other records": Kind(False, 60, _other_records),
    "untrained": Kind(False, 40, _untrained, None),
    "trained on other data": Kind(False, 40, _disjoint),
    "overfit on five noisy records of a class": Kind(True, 5, lambda seed: _overfit(seed, per_class=5, drawn=noisy)),
    "overfit on ten noisy records of a class": Kind(True, 5, lambda seed: _overfit(seed, per_class=10, drawn=noisy)),
    "duplicated noisy records": Kind(True, 5, lambda seed: _duplicated(seed, members=20, drawn=noisy), _SHORT),
    "permuted identities, noisy": Kind(True, 5, lambda seed: _permuted_people(seed, drawn=noisy)),
}
