"""ART's attacks run on our outputs, repeatably, and find what is plain to see."""

from __future__ import annotations

import json

import numpy as np

from audits.membership.baselines import art_baselines
from audits.membership.scores import log_softmax

RNG = np.random.default_rng(0)
N = 1300
MEMBER = np.arange(N) % 2 == 0
Y = RNG.integers(0, 4, N)


def probabilities(*, gap: float) -> np.ndarray:  # type: ignore[type-arg]
    logits = RNG.normal(size=(N, 4))
    logits[np.arange(N), Y] += 1.0 + gap * MEMBER
    return np.exp(log_softmax(logits))


def test_the_toolbox_finds_a_plain_leak_and_gives_the_same_figures_twice() -> None:
    outputs = probabilities(gap=4.0)
    shadows = (outputs, outputs, outputs)
    runs = [
        art_baselines(
            outputs,
            Y,
            MEMBER,
            shadow_probabilities=shadows,
            inside=np.stack([MEMBER] * 3),
            fpr=0.01,
            confidence=0.95,
            seed=3,
        )
        for _ in range(2)
    ]
    assert json.dumps(runs[0]) == json.dumps(runs[1])
    by_name = {entry["attack"]: entry for entry in runs[0]}
    assert by_name["art.black_box_rf"]["auc"] > 0.8
    assert by_name["art.shadow_rf"]["auc"] > 0.8
    assert by_name["art.rule"]["balanced_accuracy"] > 0.6


def test_the_toolbox_finds_nothing_where_nothing_is() -> None:
    (learned, rule) = art_baselines(probabilities(gap=0.0), Y, MEMBER, fpr=0.01, confidence=0.95, seed=3)
    assert 0.4 < learned["auc"] < 0.6
    assert abs(rule["balanced_accuracy"] - 0.5) < 0.08


def test_a_class_that_no_judged_record_has_stops_nothing() -> None:
    outputs, without = probabilities(gap=0.0), np.where(Y == 1, 2, Y)
    entries = art_baselines(outputs, without, MEMBER, fpr=0.01, confidence=0.95, seed=3)
    assert [entry["attack"] for entry in entries] == ["art.black_box_rf", "art.rule"]
