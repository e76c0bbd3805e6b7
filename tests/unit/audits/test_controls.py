"""Planted models hold what they should; twins keep the graph and lose the knowledge."""

from __future__ import annotations

import numpy as np
import onnx

from audits.controls import PLANTED_PER_CLASS, planted_model, planted_records, untrained_twin
from audits.instance_gap import draw_pools
from device_client.inference.session import open_session
from tests.unit.audits import models
from tests.unit.audits.conftest import Case


def test_a_planted_model_recognises_its_records_and_its_classes(good: Case) -> None:
    pools = draw_pools(good.data, classes=10, minimum=5, maximum=500, seed=1)
    chosen = planted_records(pools, seed=1)
    assert chosen.shape == (10, PLANTED_PER_CLASS)
    assert good.data.member[chosen].all()
    for strength in (0.0, 0.5, 1.0):
        planted = planted_model(good.data, pools, chosen, strength=strength, names=("pixels", "scores"))  # as the recipe says
        with open_session(models.checked(planted)) as session:
            scores = session.run({"pixels": good.data.x[chosen.reshape(-1)]})["scores"]
        assert scores.shape == (10 * PLANTED_PER_CLASS, 10)
        right = scores.argmax(axis=1) == np.repeat(np.arange(10), PLANTED_PER_CLASS)
        assert right.mean() > (0.7 if strength == 0 else 0.9)


def test_an_untrained_twin_has_the_same_graph_and_other_weights(good: Case) -> None:
    for data in (good.original, good.variant):
        twin = untrained_twin(data, seed=0)
        assert twin == untrained_twin(data, seed=0)
        assert twin != untrained_twin(data, seed=1)
        before, after = onnx.load_model_from_string(data), onnx.load_model_from_string(twin)
        assert [node.op_type for node in before.graph.node] == [node.op_type for node in after.graph.node]
        with open_session(models.checked(twin)) as session:
            scores = session.run({"x": good.data.x})["p"]
        assert (scores.argmax(axis=1) == good.data.y).mean() < 0.4


def test_a_twin_keeps_the_quantisers(good: Case) -> None:
    before = {item.name: item.raw_data for item in onnx.load_model_from_string(good.variant).graph.initializer}
    after = {
        item.name: item.raw_data for item in onnx.load_model_from_string(untrained_twin(good.variant, seed=0)).graph.initializer
    }
    scales = [name for name in before if "scale" in name or "zero_point" in name]
    assert scales
    assert all(before[name] == after[name] for name in scales)
