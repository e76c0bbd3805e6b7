"""What is offered to whom, how records are split, and what the fixes that are made on bytes do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from audits.data import AuditData
from audits.isolated.child import takes_fix
from audits.mitigate.accuracy import class_scores
from audits.mitigate.fixes import KINDS, Fix, Offer, offer_fixes
from audits.mitigate.student import distil
from audits.mitigate.surgery import hide_scores, prune
from audits.mitigate.training import make_private, smoothed_cross_entropy
from audits.mitigate.workshop import Records, Workshop, set_aside
from device_client.errors import MissingExtraError, UsageError
from tests.unit.audits import models
from tests.unit.audits.mitigate import trainers
from tests.unit.audits.mitigate.in_process import InProcessTrainer

SEALED = {"temperature", "rounding", "top_1", "label_only"}


def offer(**changes: Any) -> Offer:
    usual: dict[str, Any] = {"trains": True, "takes_fix": True, "has_dp": True, "unlabelled": None, "threat_model": "white_box"}
    return offer_fixes(**(usual | changes))


def kinds(found: Offer) -> set[str]:
    return {fix.kind for fix in found.fixes}


@pytest.fixture(scope="module")
def data() -> AuditData:
    return models.digits_data(models.half(0, per_class=20))


@pytest.fixture(scope="module")
def model(data: AuditData) -> bytes:
    return trainers.train(data.x[data.member], data.y[data.member], seed=1, epochs=40)


def test_whoever_holds_the_file_is_offered_no_trick_on_the_output() -> None:
    found = offer()
    assert kinds(found) == {kind.name for kind in KINDS} - SEALED
    assert set(found.unavailable) == SEALED
    assert all("cuts these off" in reason for reason in found.unavailable.values())
    assert all(fix.holds_for_file for fix in found.fixes)


@pytest.mark.parametrize("threat_model", ["sealed_api", "label_only"])
def test_a_sealed_deployment_is_offered_them_with_a_label(threat_model: str) -> None:
    tricks = [fix for fix in offer(threat_model=threat_model).fixes if fix.kind in SEALED]
    assert {fix.kind for fix in tricks} == SEALED
    assert all("cuts these off" in fix.told and not fix.holds_for_file for fix in tricks)


def test_an_entry_point_without_the_keyword_allows_what_needs_no_cooperation() -> None:
    found = offer(takes_fix=False)
    assert kinds(found) == {"none", "retrain", "distil_own", "distil", "prune"}
    assert "does not take `fix`" in found.unavailable["early_stop"]


def test_without_any_training_there_are_a_student_and_pruning() -> None:
    assert kinds(offer(trains=False, takes_fix=False)) == {"none", "distil", "prune"}


def test_dp_sgd_without_opacus_is_not_available_and_says_how_to_get_it() -> None:
    assert offer(has_dp=False).unavailable["dp_sgd"] == "NOT AVAILABLE: Opacus is not installed; pip install 'sealift[dp]'"


def test_one_kind_can_be_asked_for_and_an_unknown_one_is_refused() -> None:
    assert kinds(offer(only=("prune",))) == {"none", "prune"}
    with pytest.raises(ValueError, match="unknown fixes: magic"):
        offer(only=("magic",))


def test_records_for_a_student_are_taken_from_heldouts_and_compared_with_nothing(data: AuditData) -> None:
    records, lacking = set_aside(data, share=0.4, minimum=5, seed=0)
    assert lacking is None
    assert records.aside is not None
    assert int(records.data.member.sum()) == int(data.member.sum())
    rows = [{row.tobytes() for row in part} for part in (records.aside, records.data.x, data.x[data.member])]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert len(records.aside) + len(records.data.x) == len(data.x)


def test_what_a_student_learned_from_is_audited_like_members(data: AuditData) -> None:
    records, _ = set_aside(data, share=0.4, minimum=5, seed=0)
    assert records.aside is not None
    assert records.views(Fix("early_stop", 0.5)) == (records.data,)
    _, second = records.views(Fix("distil", 16.0))
    assert (second.x[second.member] == records.aside).all()
    assert {row.tobytes() for row in second.x[~second.member]} == {row.tobytes() for row in records.data.x[~records.data.member]}


def test_too_few_heldouts_leave_none_for_a_student(data: AuditData) -> None:
    keep = data.member | (np.cumsum(~data.member) <= 60)
    few = AuditData(data.x[keep], data.y[keep], data.member[keep], data.digest)
    records, lacking = set_aside(few, share=0.4, minimum=5, seed=0)
    assert lacking is not None
    assert "too few" in lacking
    assert records == Records(few)


def test_pruning_zeroes_the_smallest_weights_of_each_layer_and_nothing_else(model: bytes) -> None:
    before, after = (
        {item.name: numpy_helper.to_array(item) for item in onnx.load_model_from_string(data).graph.initializer}
        for data in (model, prune(model, share=0.7))
    )
    for name in ("w0", "w1"):
        gone = (after[name] == 0) & (before[name] != 0)
        assert gone.mean() == pytest.approx(0.7, abs=0.002)
        assert np.abs(before[name][gone]).max() <= np.abs(before[name][~gone]).min()
        assert (after[name][~gone] == before[name][~gone]).all()
    assert (after["b0"] == before["b0"]).all()


def test_a_model_without_float_weights_cannot_be_pruned() -> None:
    bare = models.build([onnx.helper.make_node("Softmax", ["x"], ["p"])], [], inputs=("x", [None, 4]), outputs=("p", [None, 4]))
    with pytest.raises(UsageError) as refused:
        prune(bare, share=0.5)
    assert refused.value.code == "fix_weights"


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize(("kind", "strength"), [("temperature", 5.0), ("rounding", 1.0), ("top_1", 0.0), ("label_only", 0.0)])
def test_output_nodes_keep_the_winner_and_hide_the_rest(kind: str, strength: float, logits: bool, data: AuditData) -> None:
    net = trainers.network(64, 10, hidden=16, seed=0)
    plain = trainers.to_onnx(net, features=64, classes=10, softmax=not logits)
    open_scores = class_scores(models.checked(trainers.to_onnx(net, features=64, classes=10)), data.x[:30])
    hidden = class_scores(models.checked(hide_scores(plain, kind=kind, strength=strength, logits=logits)), data.x[:30])
    winner = open_scores.argmax(axis=1)
    if kind == "rounding":
        assert np.allclose(hidden, np.round(open_scores, 1), atol=1e-6)
        return
    assert (hidden.argmax(axis=1) == winner).all()
    if kind == "label_only":
        assert (hidden == np.eye(10)[winner]).all()
    elif kind == "top_1":
        assert ((hidden > 0).sum(axis=1) == 1).all()
        assert np.allclose(hidden.max(axis=1), open_scores.max(axis=1), atol=1e-6)
    else:
        assert (hidden.max(axis=1) < open_scores.max(axis=1)).all()
        assert np.allclose(hidden.sum(axis=1), 1.0, atol=1e-5)


def test_a_student_agrees_with_its_teacher_and_is_the_same_for_the_same_seed(data: AuditData, model: bytes) -> None:
    teacher, outside = models.checked(model), data.x[~data.member]
    student = distil(teacher, outside[:400], width=32, seed=3)
    few = [distil(teacher, outside[:40], width=8, seed=seed) for seed in (3, 3, 4)]
    assert few[0] == few[1] != few[2]
    given = [class_scores(models.checked(item), outside[400:]).argmax(axis=1) for item in (model, student)]
    assert (given[0] == given[1]).mean() > 0.9


def test_a_student_of_images_is_convolutional_and_keeps_the_names_and_the_kind_of_output() -> None:
    shape = (1, 8, 8)
    weights = [numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32), "w")]
    nodes = [onnx.helper.make_node("Flatten", ["picture"], ["f"], axis=1), onnx.helper.make_node("MatMul", ["f", "w"], ["logits"])]
    teacher = models.build(nodes, weights, inputs=("picture", [None, *shape]), outputs=("logits", [None, 3]))
    x = np.random.default_rng(1).normal(size=(60, *shape)).astype(np.float32)
    student = models.checked(distil(models.checked(teacher), x, width=16, seed=0))
    assert (student.inputs[0].name, student.outputs[0].name) == ("picture", "logits")
    assert class_scores(student, x).min() < 0.0  # logits, as the teacher gives
    assert sum(node.op_type == "Conv" for node in onnx.load_model_from_string(student.data).graph.node) == 2


def test_an_entry_point_that_ignores_a_fix_is_found_out(data: AuditData, model: bytes) -> None:
    shop = Workshop(models.checked(model), Records(data), InProcessTrainer(trainers.deaf, name="deaf"))
    with pytest.raises(UsageError) as refused:
        shop.make(Fix("early_stop", 0.5), seed=0)
    assert refused.value.code == "fix_ignored"
    assert shop.make(Fix("retrain", 0.0), seed=0) == trainers.deaf(data.x[data.member], data.y[data.member], seed=0)


def test_twins_get_the_same_fix_as_the_candidate(data: AuditData, model: bytes) -> None:
    calls: list[dict[str, Any]] = []

    def spy(x: Any, y: Any, *, seed: int, fix: Any = None) -> bytes:
        calls.append({"rows": len(x), "seed": seed, "fix": dict(fix or {})})
        return trainers.train(x, y, seed=seed, fix={**(fix or {}), "epochs_factor": 0.02 + 0.01 * bool(fix)})

    records, _ = set_aside(data, share=0.4, minimum=5, seed=0)
    assert records.aside is not None
    shop = Workshop(models.checked(model), records, InProcessTrainer(spy, name="spy"))
    twins = shop.twins(Fix("early_stop", 0.2))
    assert twins is not None
    twins.train(data.x[:80], data.y[:80], seed=9)
    assert calls == [{"rows": 80, "seed": 9, "fix": {"epochs_factor": 0.2}}]
    calls.clear()
    pruned = shop.twins(Fix("prune", 0.5))
    assert pruned is not None
    made = pruned.train(data.x[:80], data.y[:80], seed=9)
    assert calls == [{"rows": 80, "seed": 9, "fix": {}}]
    assert made == prune(trainers.train(data.x[:80], data.y[:80], seed=9, fix={"epochs_factor": 0.02}), share=0.5)
    calls.clear()
    student = shop.twins(Fix("distil_own", 0.0))
    assert student is not None
    student.train(data.x[:80], data.y[:80], seed=9)
    assert [call["rows"] for call in calls] == [80, len(records.aside)]  # its teacher saw the records, the student did not
    calls.clear()
    exposed = shop.twins(Fix("distil_own", 0.0), exposed=1)
    assert exposed is not None
    exposed.train(data.x[:80], data.y[:80], seed=9)
    assert [call["rows"] for call in calls] == [80]  # here the records are what the student learns from


def test_a_student_never_sees_a_member_or_a_true_label(data: AuditData, model: bytes) -> None:
    seen: list[Any] = []

    def spy(x: Any, y: Any, *, seed: int) -> bytes:
        seen.append((x, y))
        return trainers.train(x, y, seed=seed, epochs=1)

    records, _ = set_aside(data, share=0.4, minimum=5, seed=0)
    assert records.aside is not None
    shop = Workshop(models.checked(model), records, InProcessTrainer(spy, name="spy"))
    shop.make(Fix("distil_own", 0.0), seed=0)
    ((x, y),) = seen
    assert (x == records.aside).all()
    assert (y == class_scores(models.checked(model), x).argmax(axis=1)).all()
    assert (y != records.aside_y).any()  # the original errs on some of them


def test_the_keyword_is_seen_in_the_signature() -> None:
    assert takes_fix(trainers.train)
    assert not takes_fix(trainers.plain)
    assert takes_fix(lambda x, y, **more: b"")


def test_training_that_gives_no_bytes_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        InProcessTrainer(lambda x, y, seed: "no", name="mine:train").train(
            np.zeros((1, 2), np.float32), np.zeros(1, int), seed=0, fix={}
        )
    assert (refused.value.code, refused.value.where) == ("entry_point", "mine:train")


def test_the_identity_of_a_training_changes_with_its_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for index, text in enumerate(("def train(x, y, *, seed): return b'1'\n", "def train(x, y, *, seed): return b'2'\n")):
        (tmp_path / f"mine{index}.py").write_text(text)
        names.append(InProcessTrainer(importlib.import_module(f"mine{index}").train, name="mine:train").identity)
    assert names[0] != names[1]


def test_negative_smoothing_follows_its_formula_and_zero_is_cross_entropy() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.0]]), torch.tensor([0, 2])
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.allclose(smoothed_cross_entropy(logits, labels, 0.0), plain)
    positive = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.allclose(smoothed_cross_entropy(logits, labels, 0.1), positive)
    assert smoothed_cross_entropy(logits, labels, -0.2) < plain


def test_dp_training_without_opacus_prints_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtraError) as missing:
        make_private(torch.nn.Linear(2, 2), None, None, noise=1.0, clip=1.0, seed=0)  # type: ignore[arg-type]
    assert missing.value.hint == "pip install 'sealift[dp]'"


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_dp_training_is_repeatable_and_differs_from_plain_training(data: AuditData) -> None:
    pytest.importorskip("opacus")
    x, y = data.x[data.member], data.y[data.member]
    made = [trainers.train(x, y, seed=0, epochs=3, fix=fix) for fix in ({"dp": {"noise": 1.0, "clip": 1.0}},) * 2]
    assert made[0] == made[1]
    assert made[0] != trainers.train(x, y, seed=0, epochs=3)


def test_seeds_change_a_candidate_that_is_trained_and_not_one_that_is_pruned(data: AuditData, model: bytes) -> None:
    def brief(x: Any, y: Any, *, seed: int, fix: Any = None) -> bytes:
        return trainers.train(x, y, seed=seed, fix=fix, epochs=20)

    shop = Workshop(models.checked(model), Records(data), InProcessTrainer(brief, name="t"))
    assert shop.make(Fix("prune", 0.5), seed=0) == shop.make(Fix("prune", 0.5), seed=1)
    assert shop.make(Fix("early_stop", 0.03), seed=0) != shop.make(Fix("early_stop", 0.03), seed=1)
    assert replace(Records(data), private=False).views(Fix("distil", 16.0)) == (data,)
