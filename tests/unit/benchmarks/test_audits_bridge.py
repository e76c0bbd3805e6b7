"""What A6 makes of comparisons, and one own network in every form."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from audits.bridge.graph import BridgeError
from benchmarks import audits_bridge
from benchmarks.audits_bridge import FORMS, NAMED, SIGNED, Compared, compare, goals
from benchmarks.audits_nets import NETWORKS
from benchmarks.results_file import Goal
from tests.unit.audits import models


def of(found: list[Compared], identity: str) -> Goal:
    return next(goal for goal in goals(found) if goal.id == identity)


def named(**changed: Compared) -> list[Compared]:
    """The six named models in every form, all well."""
    return [changed.get(name, Compared(name, form, True, "QDQ" in form, 1e-6)) for name in NAMED for form in FORMS]


def test_the_worst_model_is_named_with_its_form() -> None:
    found = [Compared("a", "FP32", False, False, 1e-7), Compared("b", "FP16", False, False, 2e-5)]
    goal = of(found, "A6")
    assert (goal.value, goal.met) == (2e-5, False)
    assert "(b, FP16)" in goal.what


def test_quanta_and_relative_differences_are_not_mixed() -> None:
    found = [Compared("a", "FP32", False, False, 1e-7), Compared("a", "dynamic", False, True, 1.5)]
    assert (of(found, "A6").value, of(found, "A6-quanta").value) == (1e-7, 1.5)
    assert of(found, "A6-signed").reason == "nothing was compared"


def test_signed_activations_have_a_goal_of_their_own() -> None:
    found = [Compared("a", SIGNED, False, True, 5.0), Compared("a", "dynamic", False, True, 0.5)]
    assert (of(found, "A6-quanta").met, of(found, "A6-signed").met) == (True, False)


def test_a_named_model_counts_only_if_every_form_of_it_holds() -> None:
    assert of(named(), "A6-models").value == 6
    assert of([*named(), Compared("kws", "dynamic", True, True, 2.5)], "A6-models").value == 5
    assert of([item for item in named() if (item.model, item.form) != ("kws", "QOperator")], "A6-models").value == 5


def test_a_model_that_is_missing_makes_no_figure() -> None:
    goal = of([item for item in named() if item.model != "ad01"], "A6-models")
    assert (goal.value, goal.reason) == (None, "SEALIFT_DATA has not ad01")


def test_an_untranslated_model_misses_a_goal_and_an_unmade_one_does_not() -> None:
    assert of([Compared("a", "FP32", False, False, None, "not translated: Sinh")], "A6-lost").met is False
    assert of([Compared("a", "dynamic", False, False, None, "not made: nothing")], "A6-lost").met is True


def test_outputs_are_compared_all_and_a_wrong_one_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Add", ["a", "c"], ["y"])]
    data = models.build(nodes, [numpy_helper.from_array(np.float32(1), "c")], inputs=("x", [None, 4]), outputs=("y", [None, 4]))
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert compare(data, rows) == (0.0, False)
    monkeypatch.setattr(audits_bridge, "TorchProgram", lambda graph, wanted: lambda x: (x + 1,))
    assert compare(data, rows)[0] > 0.1


def test_an_unknown_operator_is_no_figure() -> None:
    data = models.build([helper.make_node("Sinh", ["x"], ["y"])], [], inputs=("x", [None, 4]), outputs=("y", [None, 4]))
    with pytest.raises(BridgeError, match="Sinh"):
        compare(data, np.zeros((1, 4), dtype=np.float32))


def test_twelve_networks_differ_in_what_they_are() -> None:
    assert len({network.id for network in NETWORKS}) == 12
    assert {network.shape for network in NETWORKS} == {"vector", "picture", "series"}


def test_a_network_with_two_outputs_holds_as_it_is_and_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is `make bench-audits`."""
    forms = ("FP32", "static QDQ per channel", "weights in 4 bits")
    monkeypatch.setattr(audits_bridge, "NETWORKS", [item for item in NETWORKS if item.id == "detector head"])
    monkeypatch.setattr(audits_bridge, "FORMS", {form: FORMS[form] for form in forms})
    monkeypatch.setattr(audits_bridge, "_ROWS", 3)
    found = list(audits_bridge._own())
    assert [(item.form, item.holds) for item in found] == [(form, True) for form in forms]
    assert [item.quantised for item in found] == [False, True, False]
