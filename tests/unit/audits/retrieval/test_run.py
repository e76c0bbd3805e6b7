"""The retrieval family as a whole: findings that decide, controls that behave, reasons where something did not run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from audits.family import Bench
from audits.finding import control_problems
from audits.policy import AskedTests
from audits.retrieval.run import RetrievalRun, audit_retrieval, run_retrieval
from audits.targets import ORIGINAL, Subject
from tests.unit.audits import models
from tests.unit.audits.retrieval.conftest import RANGE, VARIANT, settings

TESTS = ["inversion.identity", "inversion.black_box", "inversion.label_only", "inversion.swap_split"]


def finding(run: RetrievalRun, subject: str, test: str):  # type: ignore[no-untyped-def]
    return next(item for item in run.result.findings[subject] if item.test == f"inversion.{test}")


def test_every_subject_has_one_finding_for_every_test(leaky_run: RetrievalRun) -> None:
    assert set(leaky_run.result.findings) == {ORIGINAL, VARIANT}
    for found in leaky_run.result.findings.values():
        assert [item.test for item in found] == TESTS
        for item in found:
            assert 0.0 <= item.p_value <= item.p_adjusted <= 1.0


def test_a_public_identity_is_reported_and_never_judged(leaky_run: RetrievalRun) -> None:
    item = finding(leaky_run, ORIGINAL, "identity")
    assert (item.p_value, item.p_adjusted, item.tolerated) == (1.0, 1.0, None)
    assert item.estimate >= 0.9
    detail = leaky_run.result.detail[ORIGINAL]["identity"]
    assert detail["retrieved"] >= 9
    assert detail["p_value"] < 1e-6
    assert detail["chance"] == 0.1


def test_the_page_gets_its_numbers(leaky_run: RetrievalRun) -> None:
    detail = leaky_run.result.detail[VARIANT]
    assert {"queries_per_class", "confidence", "retrieved", "classes"} <= set(detail["black_box"])
    assert {"gap", "interval", "delta", "delta_interval", "by_class"} <= set(detail["swap_split"])
    assert {"retrieved", "classes", "interval", "chance"} <= set(detail["identity"])
    assert len(detail["black_box"]["confidence"]) == 10
    json.dumps([asdict(item) for found in leaky_run.result.findings.values() for item in found], allow_nan=False)
    json.dumps([dict(leaky_run.result.detail), leaky_run.result.shared], allow_nan=False)


def test_images_are_there_for_every_subject_and_attack(leaky_run: RetrievalRun) -> None:
    assert {name for name, _ in leaky_run.images.images} == {ORIGINAL, VARIANT}
    assert {"black_box", "label_only", "logit"} <= {attack for name, attack in leaky_run.images.images if name == ORIGINAL}
    assert "transfer:logit" in {attack for name, attack in leaky_run.images.images if name == VARIANT}
    for images in leaky_run.images.images.values():
        assert images.shape == (10, 64)


def test_planted_leaks_are_caught_and_null_controls_are_quiet(leaky_run: RetrievalRun) -> None:
    controls = {item.name: item for item in leaky_run.result.controls}
    for name in ("identity:class_mean", "black_box:planted:1", "swap_split:planted:1"):
        assert controls[name].planted
        assert controls[name].held, controls[name].told
    for item in controls.values():
        if not item.planted:
            assert item.held, item.told
    assert leaky_run.result.power == 1.0
    assert len(controls) == len(leaky_run.result.controls)


def test_an_overfit_model_leaks_by_black_box_too(leaky_run: RetrievalRun) -> None:
    item = finding(leaky_run, ORIGINAL, "black_box")
    assert item.p_value <= 0.01
    assert item.estimate > 0.05


def test_the_same_inputs_give_the_same_result(leaky_bench: Bench) -> None:
    chosen = settings(black_box_queries=150, label_only_queries=150)
    asked = AskedTests(("inversion.identity", "inversion.black_box", "inversion.label_only"), ())
    bench = replace(leaky_bench, variants=(), policy=replace(leaky_bench.policy, tests=asked))
    first, second = (replace(run_retrieval(bench, chosen), images={}) for _ in range(2))
    assert first == second
    assert [item.test for item in first.findings[ORIGINAL] if item.not_run] == ["inversion.swap_split"]


def test_a_private_identity_is_judged_against_the_policys_bound(leaky_bench: Bench) -> None:
    bench = replace(leaky_bench, variants=())
    run = audit_retrieval(bench, settings(identity_is_public=False, max_retrieval=0.2), wanted=["identity"])
    item = finding(run, ORIGINAL, "identity")
    assert item.tolerated == 0.2
    assert item.p_adjusted <= 0.01
    assert all(control.required for control in run.result.controls if control.name.startswith("identity:"))
    lenient = audit_retrieval(bench, settings(identity_is_public=False, max_retrieval=1.0), wanted=["identity"])
    assert finding(lenient, ORIGINAL, "identity").p_adjusted == 1.0
    assert finding(run, ORIGINAL, "black_box").not_run == "the policy does not ask for it"


def test_a_model_without_gradients_is_asked_from_outside_and_then_that_decides(leaky_bench: Bench) -> None:
    from onnx import helper, load_model_from_string

    proto = load_model_from_string(leaky_bench.variants[0].model.data)
    proto.graph.node.insert(0, helper.make_node("Det", ["square"], ["unused"]))
    proto.graph.initializer.append(models.numpy_helper.from_array(np.eye(2, dtype=np.float32), "square"))
    # an operator that the bridge does not know, in front of the input
    first = next(node for node in proto.graph.node if "x" in node.input)
    first.input[list(first.input).index("x")] = "scaled"
    proto.graph.node.insert(1, helper.make_node("Mul", ["x", "unused"], ["scaled"]))
    odd = Subject("odd", models.checked(proto.SerializeToString()), RANGE)
    bench = replace(leaky_bench, variants=(odd,))
    run = audit_retrieval(bench, settings(black_box_queries=70, black_box_restarts=1), wanted=["identity", "black_box"])
    item = finding(run, "odd", "black_box")
    assert any("converged" in reason for reason in item.undone)
    assert finding(run, ORIGINAL, "black_box").undone == ()
    assert run.result.detail["odd"]["identity"]["no_gradient"] is not None
    assert run.result.detail["odd"]["identity"]["attack"] == "black_box"


@pytest.mark.parametrize(("model", "runs"), [("sealed_api", ["black_box", "label_only"]), ("label_only", ["label_only"])])
def test_a_sealed_model_is_attacked_from_outside_only(leaky_bench: Bench, model: str, runs: list[str]) -> None:
    bench = replace(leaky_bench, policy=replace(leaky_bench.policy, threat_model=model))
    run = audit_retrieval(bench, settings(black_box_queries=100, label_only_queries=150))
    for name in ("black_box", "label_only"):
        assert (finding(run, ORIGINAL, name).not_run is None) is (name in runs)
    assert model in finding(run, ORIGINAL, "swap_split").not_run
    assert {attack for _, attack in run.images.images} == set(runs)
    assert finding(run, ORIGINAL, runs[0]).undone, "this budget is too small to mean anything"


def test_thin_classes_are_not_judged_by_memberships(leaky_bench: Bench) -> None:
    policy = replace(leaky_bench.policy, decision=replace(leaky_bench.policy.decision, min_records_per_class=50))
    run = audit_retrieval(replace(leaky_bench, policy=policy), settings(black_box_queries=100), wanted=["black_box"])
    assert finding(run, ORIGINAL, "black_box").not_run == "10 classes have fewer than 50 members or held-outs"


def test_one_model_that_cannot_be_opened_hides_no_other(leaky_bench: Bench) -> None:
    wide = models.to_onnx(models.train(models.half(0), epochs=1), softmax=True)
    from onnx import helper, load_model_from_string

    proto = load_model_from_string(wide)
    proto.graph.node.append(helper.make_node("ReduceMax", ["p"], ["top"], keepdims=1, axes=[1]))
    proto.graph.output[0].name = "top"
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    broken = Subject("broken", models.checked(proto.SerializeToString()), RANGE)
    bench = replace(leaky_bench, variants=(broken, leaky_bench.variants[0]))
    run = audit_retrieval(bench, settings(black_box_queries=150), wanted=["identity", "black_box"])
    assert finding(run, "broken", "black_box").blind
    assert finding(run, "broken", "identity").blind
    assert finding(run, VARIANT, "black_box").blind == ()
    assert finding(run, VARIANT, "black_box").estimate is not None


def test_without_twins_the_black_box_has_to_catch_a_planted_leak(leaky_bench: Bench, leaky_run: RetrievalRun) -> None:
    """Else nothing of the family had to, and no model could pass a policy that asks for it without a trainer."""
    bench = replace(leaky_bench, variants=(), trainer=None)
    result = audit_retrieval(bench, settings(), wanted=["identity", "black_box", "swap_split"]).result
    assert control_problems(result.controls) == ()
    required = {item.name for item in result.controls if item.planted and item.required}
    assert required == {"black_box:planted:1"}
    assert result.power == 1.0
    with_twins = {item.name for item in leaky_run.result.controls if item.planted and item.required}
    assert with_twins == {"swap_split:planted:1"}
