from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.compression_goals import Found, counts_as_met, goals, resnet8_goals
from benchmarks.compression_row import Made, Row
from benchmarks.results_file import Goal
from device_client.bundle.contract import Requires
from examples.packing import Packed
from packager.data import Dataset
from packager.evaluate import Judge, make_judge
from packager.latency import LatencyRatio

IDS = [f"C{number}" for number in range(1, 16)]
FP32 = b"f" * 95_000
STUDIES: dict[str, dict[str, Any]] = {
    "wearable": {
        "seeds": 3,
        "less_time": 0.9,
        "times_smaller": 80.0,
        "times_smaller_stored": 80.0,
        "less_energy": None,
        "energy": "no model of energy",
        "recall_change": {"interval": [-0.003, 0.01]},
    },
    "factory": {
        "seeds": 5,
        "below_teacher": 0.001,
        "times_fewer_parameters": 55.0,
        "times_smaller_stored": 20.0,
        "teacher_average_precision": 0.9,
        "gain_over_plain": {"soft-label": {"mean": -0.01}},
    },
}


def _judge(rows: int = 1000) -> Judge:
    y = np.arange(rows) % 2
    test = Dataset({"x": np.zeros((rows, 1), np.float32)}, y, None, None, "test")
    return make_judge({"y": np.eye(2)[y]}, test, task="classification", seed=0, where="test")


def _made(who: str, judge: Judge, *, size: int, wrong: int = 0, ratio: float = 0.5, low: float | None = None) -> Made:
    scores = np.array(judge.reference["y"])
    scores[:wrong] = 1 - scores[:wrong]
    evaluation = judge.evaluate({"y": scores}, allowed_drop=0.005)
    latency = LatencyRatio(ratio, ratio if low is None else low, ratio + 0.01, 30, 1.0, ratio)
    return Made(who, b"x" * size, size, evaluation, latency, "")


def _row(identity: str, *, size: int = 29_000, wrong: int = 0, ratio: float = 0.5, static: int = 44_000, rows: int = 1000) -> Row:
    judge = _judge(rows)
    ours = _made("sealift", judge, size=size, wrong=wrong, ratio=ratio)
    peer = _made("onnxruntime static", judge, size=static, wrong=500)
    packed = Packed(None, {}, b"", size, Requires())  # type: ignore[arg-type]
    return Row(identity, len(FP32), FP32, ours, (peer,), packed, 10.0, judge, {})


def _found(rows: Mapping[str, Row], **more: Any) -> Found:
    kept = {
        "judged": ["kws"],
        "third_party": list(rows),
        "cases": [],
        "broken": [],
        "studies": STUDIES,
        "cpu_features": ["avx512_vnni"],
    }
    return Found(rows=rows, **{**kept, **more})


def _by_id(found: Found) -> dict[str, Goal]:
    return {goal.id: goal for goal in goals(found)}


def test_every_id_is_there_when_nothing_could_be_measured_and_each_says_why() -> None:
    names = ["kws", "mnist", "resnet8"]
    found = Found(
        rows={}, judged=names, third_party=names, cases=["wearable"], broken=["masked"], errors=dict.fromkeys(names, "no data")
    )
    by_id = _by_id(found)
    assert [name for name in by_id if "-" not in name] == IDS
    assert all(goal.value is None and goal.reason for goal in by_id.values())
    assert "no data" in str(by_id["C1"].reason)


def test_a_good_run_meets_its_goals() -> None:
    rows = {name: _row(name) for name in ("kws", "resnet8", "masked")}
    losses = {"haswell": {"kws": 0.0, "resnet8": 0.001}, "aarch64": "no emulator"}
    by_id = _by_id(_found(rows, broken=["masked"], losses=losses))
    missed = [goal.id for goal in by_id.values() if goal.met is False]
    assert missed == ["C7"]  # 95 over 29 is not 3.8
    assert by_id["C13"].value is None
    assert by_id["C10"].value == 0.001
    assert "no emulator" in by_id["C10"].what


@pytest.mark.parametrize(
    ("identity", "change"),
    [
        ("C1", {"wrong": 9}),
        ("C2", {"ratio": 1.03}),
        ("C2-size", {"size": 95_001}),
        ("C3", {"size": 30_001}),
        ("C4", {"wrong": 100}),
        ("C6", {"static": 42_000}),
    ],
)
def test_a_worse_network_misses_its_goal(identity: str, change: dict[str, Any]) -> None:
    assert _by_id(_found({"kws": _row("kws")}))[identity].met
    assert _by_id(_found({"kws": _row("kws", **change)}))[identity].met is False


def test_a_model_that_could_not_be_timed_leaves_the_goal_open() -> None:
    row = _row("kws")
    untimed = replace(row, ours=replace(row.ours, latency=None))
    goal = _by_id(_found({"kws": row, "mnist": untimed}))["C2"]
    assert (goal.value, goal.met) == (None, None)
    assert "not timed: mnist" in goal.what


def test_fp32_in_place_of_a_result_counts_only_where_no_peer_had_one_in_the_budget() -> None:
    row = _row("kws")
    judge = row.judge
    kept = replace(row, ours=replace(_made("sealift", judge, size=10), data=FP32))
    assert counts_as_met(kept) == "met"
    assert counts_as_met(replace(kept, peers=(_made("onnxruntime dynamic", judge, size=10),))) == "no"


def test_a_small_drop_over_few_rows_is_unproven_and_counts_apart() -> None:
    row = _row("kws", wrong=1, rows=500)
    assert counts_as_met(row) == "unproven"
    goal = _by_id(_found({"kws": row}))["C1"]
    assert goal.met
    assert "0 met, 1 unproven" in goal.what


def test_a_network_that_could_not_be_packed_counts_as_shrunk_not_at_all() -> None:
    whole = _by_id(_found({"kws": _row("kws")}))["C7"].value
    half = _by_id(_found({"kws": _row("kws")}, third_party=["kws", "silero"]))["C7"]
    assert whole is not None
    assert half.value == pytest.approx(whole**0.5)
    assert "silero" in half.what


def test_latency_of_resnet8_is_no_goal_on_a_cpu_without_vnni_but_its_agreement_is() -> None:
    time, same = resnet8_goals(_found({"resnet8": _row("resnet8", ratio=0.9)}, cpu_features=["avx2"]))
    assert time.met is None
    assert same.met


def test_too_few_natural_inputs_are_an_error_of_the_benchmark() -> None:
    with pytest.raises(ValueError, match="500"):
        resnet8_goals(_found({"resnet8": _row("resnet8", rows=499)}))


def test_a_static_default_that_holds_misses_the_goal_that_it_is_broken() -> None:
    row = _row("masked")
    holding = replace(row, peers=(_made("onnxruntime static", row.judge, size=44_000),))
    assert _by_id(_found({"masked": row}, broken=["masked"]))["C9-static"].met
    assert _by_id(_found({"masked": holding}, broken=["masked"]))["C9-static"].met is False


def test_the_worst_loss_on_any_cpu_is_the_one_that_counts() -> None:
    losses = {"haswell": {"kws": 0.0, "mnist": 0.4}, "aarch64": {"kws": 0.01}}
    goal = _by_id(_found({}, losses=losses))["C10"]
    assert goal.value == 0.4
    assert goal.met is False
    assert "mnist on haswell" in goal.what
