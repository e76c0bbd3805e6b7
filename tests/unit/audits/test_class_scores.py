"""Scores are read as what they are: by their numbers where a graph does not say it; and what is no score is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from audits.blackbox.oracle import Oracle
from audits.bridge.graph import BridgeError
from audits.bridge.tap import Tail
from audits.class_scores import is_distribution, score_rows, settle_tail, told_briefly, why_no_better_than_chance
from audits.data import check_data
from audits.membership.scorer import score_model
from audits.policy import Policy
from audits.verdict import Verdict
from audits.whitebox import WhiteBox
from tests.unit.audits import models
from tests.unit.audits.conftest import Case


def with_tail(data: bytes, nodes: list[onnx.NodeProto], *, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> bytes:
    """A model with logits ``h2``, and nodes behind them that make the output ``o``."""
    proto = onnx.load_model_from_string(data)
    constants = {"axis": [1], "four": [0, 10, 1, 1], "middle": [0, 1, 10]}
    graph = proto.graph
    graph.initializer.extend(numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in constants.items())
    graph.initializer.append(numpy_helper.from_array(np.array(0.1, dtype=np.float32), "scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(128, dtype=np.uint8), "zero"))
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("o", dtype, shape))
    made: bytes = proto.SerializeToString()
    return made


def node(operator: str, inputs: list[str], output: str = "o", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"tail/{operator}", **attributes)


BY_HAND = [node("Exp", ["h2"], "e"), node("ReduceSum", ["e", "axis"], "s", keepdims=1), node("Div", ["e", "s"])]
SAME = {
    "probabilities without a softmax": (BY_HAND, ["n", 10], Tail.PROBABILITIES),
    "logits of four dimensions": ([node("Reshape", ["h2", "four"])], ["n", 10, 1, 1], Tail.NONE),
    "a softmax of four dimensions": (
        [node("Reshape", ["h2", "four"], "r"), node("Softmax", ["r"], axis=1)],
        ["n", 10, 1, 1],
        Tail.SOFTMAX,
    ),
}
REFUSED = {
    "a softmax over the records": ([node("Softmax", ["h2"], axis=0)], ["n", 10], TensorProto.FLOAT, "not over the classes"),
    "scores that are no numbers": ([node("Log", ["h2"])], ["n", 10], TensorProto.FLOAT, "not finite"),
    "levels of a quantiser": (
        [node("QuantizeLinear", ["h2", "scale", "zero"])],
        ["n", 10],
        TensorProto.UINT8,
        "no floats",
    ),
    "classes that are not the second dimension": (
        [node("Reshape", ["h2", "middle"])],
        ["n", 1, 10],
        TensorProto.FLOAT,
        "not one score per class",
    ),
}


@pytest.fixture(scope="module")
def plain(good: Case) -> bytes:
    proto = onnx.load_model_from_string(good.original)
    del proto.graph.node[-1]  # the softmax
    data: bytes = proto.SerializeToString()
    return data


@pytest.mark.parametrize("case", SAME.values(), ids=SAME.keys())
def test_the_same_scores_in_another_form_are_the_same_probabilities_everywhere(case, plain: bytes, good: Case) -> None:  # type: ignore[no-untyped-def]
    nodes, shape, tail = case
    x = good.data.x[:40]
    model = models.checked(with_tail(plain, nodes, shape=shape))
    with WhiteBox(models.checked(good.original)) as box:
        wanted = box.probabilities(x)
    with WhiteBox(model, records=good.data.x) as box:
        assert box.tap.tail is tail
        np.testing.assert_allclose(box.probabilities(x), wanted, atol=1e-5)
        logits = box.logits(torch.from_numpy(x)).numpy().astype(np.float64)
        made = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(made / made.sum(axis=1, keepdims=True), wanted, atol=1e-4)
    with Oracle(model, probe=good.data.x.mean(axis=0)) as oracle:
        np.testing.assert_allclose(oracle.probabilities(x), wanted, atol=1e-5)
    scored = score_model(model, x)
    np.testing.assert_allclose(np.exp(scored.log_probabilities), wanted, atol=1e-4)


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_score_is_refused_with_what_was_found(case, plain: bytes, good: Case) -> None:  # type: ignore[no-untyped-def]
    nodes, shape, dtype, told = case
    model = models.checked(with_tail(plain, nodes, shape=shape, dtype=dtype))
    with pytest.raises(BridgeError, match=told):
        WhiteBox(model, records=good.data.x)
    with pytest.raises(BridgeError, match=told):
        Oracle(model, probe=good.data.x.mean(axis=0))
    with pytest.raises(BridgeError, match=told):
        score_model(model, good.data.x[:40])


def test_a_model_whose_scores_are_no_numbers_is_inconclusive_and_is_written(plain: bytes, good: Case, policy: Policy) -> None:
    broken = with_tail(plain, [node("Log", ["h2"])], shape=["n", 10])
    result = Case(broken, broken, good.data).run(policy)
    assert {subject.verdict for subject in result.audit.subjects} == {Verdict.INCONCLUSIVE}
    assert "not finite (o: NaN or infinite on" in result.audit.subjects[0].reasons[0]
    assert result.audit.to_bytes()


def test_labels_that_are_not_the_models_classes_are_never_a_pass(good: Case, policy: Policy) -> None:
    data = check_data({"x": good.data.x, "y": (good.data.y + 3) % 10, "member": good.data.member}, where="test")
    result = replace(good, data=data).run(policy)
    for subject in result.audit.subjects:
        assert subject.verdict is Verdict.INCONCLUSIVE
        assert any("no more often than chance" in reason for reason in subject.reasons)


def test_answers_that_follow_the_labels_are_told_from_those_that_do_not() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(3, size=600, p=[0.9, 0.05, 0.05])
    often = np.where(rng.random(600) < 0.9, y, rng.integers(3, size=600))
    assert why_no_better_than_chance(often, y, classes=3) is None
    assert why_no_better_than_chance(np.zeros_like(y), y, classes=3) is not None  # right in 90 %, and knows nothing
    assert why_no_better_than_chance(rng.permutation(y), y, classes=3) is not None
    assert why_no_better_than_chance((y + 1) % 3, y, classes=3) is not None


def test_logits_are_not_taken_for_probabilities() -> None:
    rows = np.random.default_rng(1).dirichlet(np.ones(5), size=20)
    assert is_distribution(rows)
    assert not is_distribution(rows * 1.02)
    assert is_distribution(np.round(rows * 255) / 255, quantum=1 / 255)
    rows[3, 0] = -rows[3, 0]
    assert not is_distribution(rows)
    assert settle_tail(Tail.NONE, rows, quantum=None, where="o") is Tail.NONE


def test_rows_of_different_lengths_are_refused_and_the_reason_says_what_was_found() -> None:
    with pytest.raises(BridgeError) as caught:
        score_rows([np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)], where="o")
    assert told_briefly(caught.value) == "the output is not one score per class (o: ('records', 3), ('records', 4))"
