"""A whole membership audit in a second: digits with some wrong labels, and a training that is one linear solve.

The network is a fixed random layer, a ReLU, and a ridge regression on one-hot labels. With many hidden units and little ridge it
knows its records by heart; with a strong ridge it knows the classes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from audits.data import AuditData, check_data
from audits.family import Bench
from audits.finding import FamilyResult, Finding
from audits.membership.settings import MembershipSettings
from audits.policy import load_policy
from audits.targets import ORIGINAL, Subject
from device_client.inference.walker import CheckedModel, check_model
from tests.unit.audits import models

SETTINGS = MembershipSettings(
    shadows=6, canary_copies=(4,), canaries=40, planted_shares=(0.1, 0.3, 0.6), relabellings=40, art_baseline=False, worst=5
)
RANGE = (0.0, 1.0)


@dataclass
class RidgeTrainer:
    """``hidden`` random features and a ridge; more features than records learn every record."""

    hidden: int = 300
    ridge: float = 1e-3

    def train(self, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], *, seed: int) -> bytes:
        rng = np.random.default_rng([seed, 9])
        first = (rng.normal(size=(x.shape[1], self.hidden)) / 3).astype(np.float32)
        features = np.maximum(x @ first, 0).astype(np.float64)
        gram = features.T @ features + self.ridge * len(x) * np.eye(self.hidden)
        second = np.linalg.solve(gram, features.T @ (8.0 * np.eye(10)[y])).astype(np.float32)
        return classifier([first, second])


def classifier(weights: list[np.ndarray[Any, Any]], *, tail: str = "Softmax") -> bytes:
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["logits"]),
        helper.make_node(tail, ["logits"], ["p"]) if tail != "ArgMax" else helper.make_node(tail, ["logits"], ["p"], axis=1),
    ]
    kind = TensorProto.INT64 if tail == "ArgMax" else TensorProto.FLOAT
    tensors = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    return models.build(
        nodes, tensors, inputs=("x", [None, 64]), outputs=("p", [None, 1 if tail == "ArgMax" else 10]), output_type=kind
    )


def rounded(model: bytes) -> bytes:
    """A compressed version: weights of three digits."""
    proto = onnx.load_model_from_string(model)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.round(numpy_helper.to_array(tensor), 3), tensor.name))
    data: bytes = proto.SerializeToString()
    return data


class RoundingCompressor:
    """Compresses like ``rounded``."""

    def compress(self, model: bytes, *, x: object, y: object) -> Mapping[str, CheckedModel]:
        del x, y
        return {"rounded": check_model(rounded(model))}


def data(*, per_class: int = 32, seed: int = 1) -> AuditData:
    """Digits, a quarter with random labels; so many members of each class, and as many held-outs."""
    x, y = models.digits()
    rng = np.random.default_rng([seed, 3])
    y = np.where(rng.random(len(y)) < 0.25, rng.integers(0, 10, len(y)), y)
    member = np.zeros(len(y), dtype=np.bool_)
    kept = np.zeros(len(y), dtype=np.bool_)
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(y == label))
        member[rows[:per_class]] = True
        kept[rows[: 2 * per_class]] = True
    return check_data({"x": x[kept], "y": y[kept], "member": member[kept]}, where="test")


def bench(records: AuditData, training: RidgeTrainer, **over: Any) -> Bench:
    """An original and a compressed variant of it, with their trainer."""
    inside = records.member
    original = training.train(records.x[inside], records.y[inside], seed=77)
    made = Bench(
        original=Subject(ORIGINAL, check_model(original), RANGE),
        variants=(Subject("rounded", check_model(rounded(original)), RANGE),),
        data=records,
        policy=load_policy(),
        compressor=None,
        trainer=training,
        report=lambda _: None,
    )
    made = replace(made, policy=replace(made.policy, decision=replace(made.policy.decision, bootstraps=200)))
    return replace(made, **over)


def finding(result: FamilyResult, subject: str, test: str) -> Finding:
    return next(item for item in result.findings[subject] if item.test == f"membership.{test}")
