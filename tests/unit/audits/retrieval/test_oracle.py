"""The black-box oracle: the device's answers, one record at a time, and all of them counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audits.blackbox.oracle import Oracle
from audits.bridge.graph import BridgeError
from audits.data import Floats
from audits.family import Bench
from audits.whitebox import WhiteBox
from device_client.inference.runtime import import_runtime
from tests.unit.audits import models


def dynamic(model: bytes, folder: Path) -> bytes:
    import_runtime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    (folder / "a.onnx").write_bytes(model)
    quantize_dynamic(folder / "a.onnx", folder / "d.onnx", weight_type=QuantType.QInt8)
    return (folder / "d.onnx").read_bytes()


def test_a_batch_gives_bit_for_bit_what_single_records_give_where_batches_are_used(leaky_bench: Bench, start: Floats) -> None:
    rows = leaky_bench.data.x[:64]
    for subject in leaky_bench.subjects:
        with Oracle(subject.model, probe=start) as oracle, WhiteBox(subject.model) as box:
            assert oracle.batched
            together, alone = oracle.probabilities(rows), box.probabilities(rows)
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(together.argmax(axis=1), alone.argmax(axis=1))


def test_a_graph_that_takes_its_range_from_the_batch_is_asked_one_record_at_a_time(
    leaky_bench: Bench, start: Floats, tmp_path: Path
) -> None:
    model = models.checked(dynamic(leaky_bench.original.model.data, tmp_path))
    rows = leaky_bench.data.x[:24] * np.linspace(0.05, 1.0, 24, dtype=np.float32)[:, None]
    with Oracle(model, probe=start) as oracle, WhiteBox(model) as box:
        assert not oracle.batched
        np.testing.assert_array_equal(oracle.probabilities(rows), box.probabilities(rows))
        # the trap that this avoids
        assert np.abs(oracle._session.run({"x": rows})["p"] - box.probabilities(rows)).max() > 1e-4


def test_a_batch_that_changes_an_answer_is_found_by_the_probe_whatever_the_operators_are_called(start: Floats) -> None:
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=1, axes=[0]),  # over the batch
        helper.make_node("Div", ["x", "d"], ["s"]),
        helper.make_node("Add", ["m", "e"], ["d"]),
        helper.make_node("MatMul", ["s", "w"], ["p"]),
    ]
    weights = [
        numpy_helper.from_array(np.full((1, 64), 0.5, dtype=np.float32), "e"),
        numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32), "w"),
    ]
    model = models.build([nodes[0], nodes[2], nodes[1], nodes[3]], weights, inputs=("x", [None, 64]), outputs=("p", [None, 10]))
    with Oracle(models.checked(model), probe=start) as oracle:
        assert not oracle.batched


def test_every_answer_is_counted(leaky_bench: Bench, start: Floats) -> None:
    with Oracle(leaky_bench.original.model, probe=start) as oracle:
        assert oracle.asked == 0
        oracle.probabilities(leaky_bench.data.x[:7])
        oracle.labels(leaky_bench.data.x[:5])
        assert oracle.asked == 12


def test_logits_and_probabilities_give_the_same_answers(start: Floats) -> None:
    net = models.train(models.half(0), epochs=2)
    x, _ = models.digits()
    answers = []
    for softmax in (True, False):
        with Oracle(models.checked(models.to_onnx(net, softmax=softmax)), probe=start) as oracle:
            answers.append(oracle.probabilities(x[:20]))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_a_model_whose_output_is_a_label_is_refused(start: Floats) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(np.ones((64, 10), dtype=np.float32), "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("ArgMax", ["s"], ["p"], axis=1)]
    model = models.build(nodes, weights, inputs=("x", [None, 64]), outputs=("p", [None, 1]), output_type=TensorProto.INT64)
    with pytest.raises(BridgeError) as caught:
        Oracle(models.checked(model), probe=start)
    assert caught.value.code == "bridge_scores"
