"""What the fleet counts, and a small slice of it through whole audit runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from audits.verdict import Verdict
from benchmarks.audits_cases import KINDS, Case, gauge, make_case, parts, records
from benchmarks.audits_fleet import FAMILIES, LEAST_GAUGE, Judged, fleet_policy, goals, judge, judge_all, rows

FAILED, PASSED, OPEN = Verdict.FAILED, Verdict.PASSED, Verdict.INCONCLUSIVE
PLANTED, NULL = "duplicated records", "permuted membership"


def judged(kind: str, *verdicts: Verdict, count: int = 1) -> list[Judged]:
    return [Judged(kind, KINDS[kind].planted, seed, {f"m{i}": v for i, v in enumerate(verdicts)}, 1.0) for seed in range(count)]


def test_a_planted_leak_counts_for_each_model_and_a_null_control_once() -> None:
    planted = [*judged(PLANTED, FAILED, FAILED, count=24), *judged(PLANTED, FAILED, PASSED)]
    found, alarms = goals([*planted, *judged(NULL, PASSED, PASSED, count=199), *judged(NULL, FAILED, FAILED)])
    assert found.value == pytest.approx(49 / 50)
    assert found.met is False
    assert "missed: duplicated records" in found.what
    assert alarms.value == pytest.approx(1 / 200)
    assert alarms.met is True


def test_a_plant_that_did_not_take_counts_for_nothing_and_is_told() -> None:
    faint = [replace(item, gauge=0.84) for item in judged(PLANTED, PASSED, FAILED, count=5)]
    took = [replace(item, gauge=0.85) for item in judged(PLANTED, FAILED, FAILED, count=25)]
    found, _ = goals([*faint, *took])
    assert found.value == 1.0
    assert "50 of 50" in found.what
    assert "of 10 that did not take, 5" in found.what
    assert [row["plants that took"] for row in rows([*faint, *took]) if row["kind"] == PLANTED] == [25]


def test_the_gauge_sees_what_was_planted_and_nothing_where_nothing_was() -> None:
    assert (make_case("duplicated noisy records", 200).gauge or 0.0) >= LEAST_GAUGE
    made = KINDS["duplicated noisy records"].make(200)
    unplanted = made.data.member & ~np.isin(np.arange(len(made.data.x)), np.flatnonzero(made.planted))
    assert (gauge(replace(made, planted=unplanted)) or 1.0) < 0.75, "records that were seen once"
    assert make_case("templates as weights", 200).gauge is None
    assert make_case(NULL, 3).gauge is None


def test_an_inconclusive_run_finds_no_leak_and_is_no_alarm() -> None:
    found, alarms = goals([*judged(PLANTED, OPEN, count=50), *judged(NULL, OPEN, count=200)])
    assert (found.value, alarms.value) == (0.0, 0.0)


def test_too_few_cases_are_no_figure() -> None:
    found, alarms = goals([*judged(PLANTED, FAILED, count=49), *judged(NULL, PASSED, count=199)])
    assert (found.value, found.reason) == (None, "49 of at least 50")
    assert (alarms.value, alarms.reason) == (None, "199 of at least 200")


def test_the_interval_is_clopper_and_pearsons() -> None:
    _, alarms = goals([*judged(NULL, PASSED, count=198), *judged(NULL, FAILED, count=2)])
    assert "2 of 200 (95 %: 0.12% to 3.57%)" in alarms.what


def test_each_kind_has_a_row_with_every_verdict() -> None:
    table = rows([*judged(PLANTED, FAILED, OPEN, count=3), *judged(NULL, PASSED)])
    assert [row["kind"] for row in table] == list(KINDS)
    row = next(row for row in table if row["kind"] == PLANTED)
    assert (row["part"], row["runs"], row["runs with FAILED"], row["FAILED"], row["INCONCLUSIVE"]) == ("A7", 3, 3, 3, 3)


def test_there_are_enough_cases_for_both_goals() -> None:
    assert 2 * sum(kind.count for kind in KINDS.values() if kind.planted) >= 50
    assert sum(kind.count for kind in KINDS.values() if not kind.planted) >= 200


def test_every_case_has_a_seed_of_its_own() -> None:
    seeds: list[int] = []

    def note(case: Case, policy: object) -> Mapping[str, Verdict]:
        seeds.append(policy.seed)  # type: ignore[attr-defined]
        return {case.kind: PASSED}

    some = [Case(kind, 0, {}, None, (0.0, 1.0), None) for kind in (PLANTED, NULL, NULL)]  # type: ignore[arg-type]
    assert len(list(judge_all(iter(some), FAMILIES, judge=note))) == 3
    assert seeds == [0, 1, 2]


def test_a_family_that_runs_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no such family of tests: palmistry"):
        fleet_policy([*FAMILIES, "palmistry"], planted=True)


def test_parts_share_no_record_and_have_as_many_of_each_class() -> None:
    _, y = records(0)
    some = parts(y, (5, 7, 20), seed=3)
    assert [len(part) for part in some] == [50, 70, 200]
    assert len(np.unique(np.concatenate(some))) == 320
    assert all(np.array_equal(np.bincount(y[part]), [len(part) // 10] * 10) for part in some)


def test_members_of_a_null_control_were_drawn_by_lot_or_never_seen() -> None:
    lot, others = make_case(NULL, 3), make_case("trained on other records", 3)
    assert lot.models["original"] == others.models["original"] == make_case(NULL, 4).models["original"]
    x, y = records(0)
    (seen,) = parts(y, (10,), seed=0)
    trained_on = {row.tobytes() for row in x[seen]}
    called = [row.tobytes() for row in lot.data.x[lot.data.member]]
    assert 30 < sum(row in trained_on for row in called) < 70
    assert not any(row.tobytes() in trained_on for row in others.data.x)


def test_a_planted_leak_is_found_and_a_null_control_is_quiet_through_whole_runs() -> None:
    """One plain case of each; the whole fleet is `make bench-audits`."""
    policy = fleet_policy(FAMILIES, planted=False)
    for kind, verdict in (("overfit on five records of a class", FAILED), ("trained on other records", PASSED)):
        assert set(judge(make_case(kind, 1), policy).values()) == {verdict}, kind
