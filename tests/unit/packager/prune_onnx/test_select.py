from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from packager.prune_onnx.allocate import allocate
from packager.prune_onnx.config import PruneChannels
from packager.prune_onnx.graph import GraphView
from packager.prune_onnx.probe import scale_costs
from packager.prune_onnx.select import Ranking, rank_groups
from packager.prune_onnx.trace import trace_channels

from ..models import graph
from .patterns import Draft, dataset, prepared


def test_the_cost_of_steps_is_what_a_least_squares_fit_cannot_bring_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((8, 6)), "b": rng.standard_normal(8), "v": rng.standard_normal((4, 8))}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v"], ["y"], transB=1),
    ]
    model, rows = prepared(tmp_path, graph(nodes, constants, x=["N", 6], y=["N", 4])), dataset((6,), 4000)
    trace = trace_channels(GraphView(model, rows))
    (ranking,) = rank_groups(trace, model, rows, most=0.75, min_channels=1, seed=0)
    hidden = np.maximum(rows.inputs["x"] @ constants["w"].T + constants["b"], 0)
    outputs = hidden @ constants["v"].T
    for count in range(1, 7):
        left = [unit for unit in range(8) if unit not in ranking.order[:count]]
        columns = np.concatenate([hidden[:, left], np.ones((len(hidden), 1))], axis=1)
        gaps = outputs - columns @ np.linalg.lstsq(columns, outputs, rcond=None)[0]
        expected = np.square(gaps).sum() / np.square(outputs - outputs.mean(axis=0)).sum()
        assert sum(ranking.costs[:count]) == pytest.approx(expected, rel=0.02)


def test_a_branch_that_hardly_reaches_the_output_is_pruned_first() -> None:
    d = Draft()
    branches = []
    for factor in (1.0, 0.01):
        inner = d.op("Relu", d.conv("x", 3, 8, dead=False))
        outer = d.conv(inner, 8, 4, dead=False)
        branches.append(d.op("Mul", d.op("Relu", outer), d.constant(np.float32(factor))))
    model, shape = d.classify(d.op("Add", *branches), 4)
    rows = dataset(shape, 128)
    trace = trace_channels(GraphView(model, rows))
    rankings = scale_costs(trace, model, rank_groups(trace, model, rows, most=0.5, min_channels=1, seed=0), rows, seed=0)
    loud, faint = (ranking for ranking in rankings if ranking.count == 8)  # in the order of the graph
    assert max(faint.costs) < min(loud.costs)


def test_counts_follow_the_cheapest_steps_in_their_order() -> None:
    dear_first = Ranking((0,), (1, 2, 3), (0.5, 0.1, 0.1), 6)
    cheap = Ranking((1,), (7, 8, 9), (0.2, 0.3, 0.9), 6)
    counts = {ratio: allocate([dear_first, cheap], PruneChannels(ratio=ratio)) for ratio in (0.1, 0.2, 0.34, 0.5)}
    assert counts == {0.1: [0, 1], 0.2: [0, 2], 0.34: [2, 2], 0.5: [3, 3]}
    assert allocate([dear_first, cheap], PruneChannels(ratio=0.34, allocation="uniform")) == [2, 2]
    assert allocate([dear_first, cheap], PruneChannels(ratio=0.34, round_to=4)) == [2, 2]
    assert allocate([dear_first, cheap], PruneChannels(ratio=0.2, round_to=5)) == [0, 1]
