"""No goal of the audit benchmark is ever left out, and a part that is absent says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import audits, audits_cost
from benchmarks.audits import PARTS, Part, Wanted
from benchmarks.results_file import Goal

IDS = [f"A{number}" for number in range(1, 15)]


def of_id(goals: list[Goal], identity: str) -> Goal:
    return next(goal for goal in goals if goal.id == identity)


def test_every_id_of_the_issue_is_wanted_from_one_part() -> None:
    assert sorted((item.id for part in PARTS.values() for item in part.wanted), key=lambda text: int(text[1:])) == IDS


def test_what_is_left_out_is_there_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        audits, "PARTS", {**PARTS, "fleet": Part(lambda: ([Goal("A7", "x", 1.0, ">=", 1.0, "")], []), PARTS["fleet"].wanted)}
    )
    goals, _ = audits.run(["fleet"])
    assert [goal.id for goal in goals] == IDS
    assert of_id(goals, "A7").met is True
    assert (of_id(goals, "A8").value, of_id(goals, "A8").reason) == (None, "the part gave no figure")
    assert {goal.reason for goal in goals if goal.id not in {"A7", "A8"}} == {"left out by --only"}


def test_a_part_that_this_version_has_not_is_no_error() -> None:
    part = Part(audits._other("benchmarks.no_such_part", "goals"), (Wanted("A9", "x", "<=", 0.0),))
    (goal,), rows = audits._measured(part)
    assert (goal.value, goal.reason, rows) == (None, "this version has no benchmarks.no_such_part", [])


def test_goals_alone_are_taken_from_another_module() -> None:
    call = audits._other("tests.unit.benchmarks.test_audits", "goals_alone")
    assert call() == ([Goal("A1", "x", 1.0, "<=", 2.0, "")], [])


def goals_alone() -> list[Goal]:
    return [Goal("A1", "x", 1.0, "<=", 2.0, "")]


def test_goals_with_a_suffix_follow_their_number() -> None:
    goals = [Goal(identity, "x", None, "<=", 1.0, "") for identity in ("A12", "A6-quanta", "A6", "A7")]
    assert [goal.id for goal in sorted(goals, key=audits._order)] == ["A6", "A6-quanta", "A7", "A12"]


@pytest.mark.parametrize(("output", "count"), [("31 passed in 2.1s", 31), ("2 failed, 30 passed", 30), ("no tests ran", 0)])
def test_skipped_tests_are_no_refusals(output: str, count: int) -> None:
    assert audits.passed(output) == count


def test_make_bench_runs_it() -> None:
    makefile = (Path(__file__).resolve().parents[3] / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^bench: .*\bbench-audits\b", makefile, re.MULTILINE)
    assert re.search(r"^bench-audits: .*\n\t.*-m benchmarks\.audits$", makefile, re.MULTILINE)


def test_the_cost_of_quick_is_shared_among_the_variants_and_that_of_standard_is_not() -> None:
    timed = {tier: audits_cost.Timed(tier, 200.0, 90.0, {}, 1.0) for tier in ("quick", "standard")}
    whole, each = audits_cost.goals(timed, variants=5, reason="-")
    assert (whole.id, whole.value, whole.met) == ("A12", 200.0, True)
    assert (each.id, each.value, each.met) == ("A13", 40.0, True)


def test_cost_that_was_not_measured_is_no_figure() -> None:
    assert [(goal.value, goal.reason) for goal in audits_cost.goals({}, variants=5, reason="no faces")] == [(None, "no faces")] * 2
