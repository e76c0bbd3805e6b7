"""Scores are of the exact bytes, one record at a time, and from before whatever masks them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from audits.bridge.graph import BridgeError
from audits.membership.scorer import score_model
from audits.membership.scores import log_softmax
from device_client.inference.walker import check_model
from tests.unit.audits import models
from tests.unit.audits.membership.small import classifier

RNG = np.random.default_rng(0)
X = models.digits()[0][:40]
WEIGHTS = [RNG.normal(size=(64, 20)).astype(np.float32) / 4, RNG.normal(size=(20, 10)).astype(np.float32)]
LOGITS = np.maximum(X @ WEIGHTS[0], 0) @ WEIGHTS[1]


def test_scores_of_a_softmax_are_those_of_its_logits() -> None:
    found = score_model(check_model(classifier(WEIGHTS)), X)
    assert found.access == "scores before Softmax"
    np.testing.assert_allclose(found.log_probabilities, log_softmax(LOGITS.astype(np.float64)), atol=1e-4)


def test_scores_of_plain_logits_need_no_cut() -> None:
    found = score_model(check_model(classifier(WEIGHTS, tail="Identity")), X)
    np.testing.assert_allclose(found.log_probabilities, log_softmax(LOGITS.astype(np.float64)), atol=1e-4)


def test_a_quantised_softmax_is_read_before_its_quantisers() -> None:
    model = check_model(models.quantised(classifier([20 * WEIGHTS[0], WEIGHTS[1]]), X))
    found = score_model(model, X)
    assert found.access.startswith("scores before QuantizeLinear")
    assert np.exp(found.log_probabilities).min() < 1e-6  # the output's own step is 1/255


def test_a_record_scores_the_same_whoever_stands_beside_it() -> None:
    model = check_model(classifier(WEIGHTS))
    np.testing.assert_array_equal(score_model(model, X).log_probabilities[5:6], score_model(model, X[5:6]).log_probabilities)


def _ratio() -> bytes:
    """Probabilities without a softmax: positive numbers over their sum."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Exp", ["h"], ["e"]),
        helper.make_node("ReduceSum", ["e", "axes"], ["s"], keepdims=1),
        helper.make_node("Div", ["e", "s"], ["p"]),
    ]
    weights = (WEIGHTS[0] @ WEIGHTS[1]).astype(np.float32)
    tensors = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")]
    return models.build(nodes, tensors, inputs=("x", [None, 64]), outputs=("p", [None, 10]))


def test_outputs_that_sum_to_one_are_probabilities() -> None:
    found = score_model(check_model(_ratio()), X)
    assert found.access == "output, probabilities"
    np.testing.assert_allclose(found.log_probabilities, log_softmax((X @ WEIGHTS[0] @ WEIGHTS[1]).astype(np.float64)), atol=1e-3)


def _broken(node: str) -> bytes:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node(node, ["h"], ["p"])]
    weights = [numpy_helper.from_array(-np.ones((64, 10), dtype=np.float32), "w")]
    return models.build(nodes, weights, inputs=("x", [None, 64]), outputs=("p", [None, 10]), output_type=TensorProto.FLOAT)


BAD = {
    "labels": classifier(WEIGHTS, tail="ArgMax"),
    "independent scores": _broken("Sigmoid"),
    "numbers that are not finite": _broken("Log"),
}


@pytest.mark.parametrize("name", BAD)
def test_outputs_that_are_no_scores_are_refused(name: str) -> None:
    with pytest.raises(BridgeError) as refused:
        score_model(check_model(BAD[name]), X)
    assert refused.value.code == "bridge_scores"
