"""Whole runs: an overfit model fails, an honest one passes, a blind audit decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from audits.compressor import Compressor
from audits.data import AuditData, Floats, Integers, check_data
from audits.evidence_reader import read_audit
from audits.finding import FamilyResult
from audits.policy import Policy
from audits.run import RunResult, run_audit
from audits.targets import ORIGINAL, BundleTargets, Subject
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel
from tests.unit.audits import models
from tests.unit.audits.conftest import NOW, RANGE, Case


def verdicts(result: RunResult) -> dict[str, Verdict]:
    return {subject.id: subject.verdict for subject in result.audit.subjects}


def instance(result: RunResult) -> FamilyResult:
    found = result.audit.family("instance")
    assert found is not None
    return found


def fast(policy: Policy) -> Policy:
    """For runs whose verdict does not hang on the number of restarts."""
    return replace(policy, inversion=replace(policy.inversion, restarts=2, probability_steps=60, cross_entropy_steps=40))


def test_a_model_trained_on_many_records_passes(good_run: RunResult) -> None:
    assert verdicts(good_run) == {"original": Verdict.PASSED, "int8-static": Verdict.PASSED}
    assert instance(good_run).power is not None


def test_an_overfit_model_fails_and_so_does_its_compressed_twin(overfit: Case, policy: Policy) -> None:
    result = overfit.run(policy)
    assert verdicts(result) == {"original": Verdict.FAILED, "int8-static": Verdict.FAILED}
    (delta, *_) = instance(result).detail["int8-static"]["delta"]
    assert delta["interval"][0] <= delta["estimate"] <= delta["interval"][1]
    assert abs(delta["estimate"]) < 0.05


def test_the_evidence_is_about_the_bytes_that_were_loaded(good: Case, good_run: RunResult) -> None:
    original, variant = good_run.audit.subjects
    assert original.digest == Digest.of(good.original) == good_run.audit.original
    assert variant.digest == Digest.of(good.variant)
    assert [subject.id for subject in good_run.audit.variants] == ["int8-static"]


def test_two_runs_write_the_same_bytes_apart_from_times(good: Case, good_run: RunResult, policy: Policy) -> None:
    again = good.run(policy)
    assert replace(again.audit, duration_s=0.0).to_bytes() == replace(good_run.audit, duration_s=0.0).to_bytes()


def test_the_evidence_reads_back(good_run: RunResult) -> None:
    data = good_run.audit.to_bytes()
    assert read_audit(data, where="audit.json").to_bytes() == data


def test_an_operator_that_the_bridge_lacks_is_named_and_inconclusive(good: Case, policy: Policy) -> None:
    exotic = models.build(
        [
            helper.make_node("Sinh", ["x"], ["a"], name="strange"),
            helper.make_node("Slice", ["a", "from", "to", "axis"], ["b"]),
            helper.make_node("Softmax", ["b"], ["p"]),
        ],
        [
            models.numpy_helper.from_array(np.array([value], dtype=np.int64), name)
            for name, value in (("from", 0), ("to", 10), ("axis", 1))
        ],
        inputs=("x", [None, 64]),
        outputs=("p", [None, 10]),
    )
    result = replace(good, variant=exotic).run(fast(policy))
    assert verdicts(result)["int8-static"] is Verdict.INCONCLUSIVE
    assert "Sinh" in " ".join(result.audit.variants[0].reasons)
    assert read_audit(result.audit.to_bytes(), where="audit.json").variants[0].verdict is Verdict.INCONCLUSIVE


def test_a_variant_is_inconclusive_when_the_original_cannot_be_attacked(good: Case, policy: Policy) -> None:
    labels = models.build([helper.make_node("Sinh", ["x"], ["p"])], [], inputs=("x", [None, 64]), outputs=("p", [None, 64]))
    result = replace(good, original=labels).run(fast(policy))
    assert set(verdicts(result).values()) == {Verdict.INCONCLUSIVE}


def test_too_few_records_of_one_class_are_inconclusive(good: Case, policy: Policy) -> None:
    keep = np.ones(len(good.data.y), dtype=bool)
    keep[np.flatnonzero((good.data.y == 4) & ~good.data.member)[2:]] = False
    fewer = check_data({"x": good.data.x[keep], "y": good.data.y[keep], "member": good.data.member[keep]}, where="test")
    result = replace(good, data=fewer).run(fast(policy))
    assert set(verdicts(result).values()) == {Verdict.INCONCLUSIVE}
    assert result.audit.data["thin"] == [[4, int((fewer.member & (fewer.y == 4)).sum()), 2]]


def _wide(data: AuditData) -> AuditData:
    return replace(data, x=np.pad(data.x.reshape(len(data.x), -1), ((0, 0), (0, 1))))


UNFIT: dict[str, tuple[Callable[[AuditData], AuditData], str]] = {
    "records of another shape": (_wide, "x"),
    "a label beyond the classes": (lambda data: replace(data, y=data.y + 1), "y"),
    "members only": (lambda data: replace(data, member=np.ones_like(data.member)), "member"),
    "no member": (lambda data: replace(data, member=np.zeros_like(data.member)), "member"),
}


@pytest.mark.parametrize(("change", "where"), UNFIT.values(), ids=UNFIT.keys())
def test_data_that_cannot_be_judged_is_refused(
    good: Case, policy: Policy, change: Callable[[AuditData], AuditData], where: str
) -> None:
    with pytest.raises(UsageError) as refused:
        replace(good, data=change(good.data)).run(policy)
    assert (refused.value.code, refused.value.where) == ("audit_data", where)


def test_an_attack_that_is_not_given_time_to_converge_is_inconclusive(good: Case, policy: Policy) -> None:
    lazy = replace(policy, inversion=replace(policy.inversion, attacks=("probability",), probability_steps=1, restarts=1))
    result = good.run(lazy)
    assert verdicts(result)["int8-static"] is not Verdict.PASSED


class Recorded(Compressor):
    """Gives back the model itself, or a twin that has forgotten everything."""

    def __init__(self, *, forgets: bool) -> None:
        self.forgets = forgets
        self.calls = 0

    def compress(self, model: bytes, *, x: Floats, y: Integers) -> Mapping[str, CheckedModel]:
        from audits.controls import untrained_twin

        self.calls += 1
        return {"int8-static": models.checked(untrained_twin(model, seed=1) if self.forgets else model)}


def run_with(good: Case, policy: Policy, compressor: Compressor) -> RunResult:
    targets = BundleTargets(Digest.of(b"m"), "clinic/digits/1.0.0", (Subject("int8-static", models.checked(good.variant), RANGE),))
    original = Subject(ORIGINAL, models.checked(good.original), RANGE)
    return run_audit(targets, original, good.data, policy=policy, now=NOW, compressor=compressor)


def test_planted_controls_go_through_the_compressor(good: Case, policy: Policy) -> None:
    kept = Recorded(forgets=False)
    result = run_with(good, policy, kept)
    assert kept.calls == 2  # strengths 0.5 and 1.0
    assert [control.held for control in instance(result).controls if control.name.count(":") == 2 and control.planted] == [
        True,
        True,
    ]
    assert verdicts(result)["int8-static"] is Verdict.PASSED


def test_a_planted_leak_that_compression_loses_makes_the_audit_inconclusive(good: Case, policy: Policy) -> None:

    result = run_with(good, fast(policy), Recorded(forgets=True))
    assert any("compressed" in control.told and not control.held for control in instance(result).controls)
    assert verdicts(result)["int8-static"] is Verdict.INCONCLUSIVE
