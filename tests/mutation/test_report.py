"""The figures of a mutation run do not flatter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mutation.report import summary, table

FILE = "device_client/trust/keys.py"


def _mutant(status: str, *, now: str = "b", number: int = 0) -> dict[str, Any]:
    return {"name": f"m{number}", "file": FILE, "function": "f", "line": 1, "status": status, "was": "a", "now": now, "diff": ""}


def _control(status: str) -> dict[str, Any]:
    return {**_mutant(status), "name": "control", "was": "", "now": "pass"}


def test_an_accepted_survivor_counts_as_a_survivor() -> None:
    found = summary([_mutant("killed"), _mutant("survived")], reasons={(FILE, "f", "a", "b"): "equivalent: it is the same"})
    assert (found["total"]["percent"], found["met"], found["unexplained"]) == (50.0, False, [])
    assert found["survivors"][0]["reason"] == "equivalent: it is the same"


@pytest.mark.parametrize("status", ["survived", "no tests", "suspicious", "segfault", "skipped", "not checked"])
def test_whatever_no_test_noticed_is_a_survivor_and_must_be_explained(status: str) -> None:
    found = summary([*[_mutant("killed", number=number) for number in range(99)], _mutant(status, number=99)], reasons={})
    assert (found["total"]["survived"], found["met"], found["unexplained"]) == (1, True, ["m99"])
    assert "m99" not in table(found)
    assert f"{status}: {FILE}:1 f\n  - a\n  + b" in table(found)


def test_the_goal_is_met_from_95_percent_on() -> None:
    def met(killed: int) -> bool:
        mutants = [_mutant("killed")] * (killed - 1) + [_mutant("timeout")] + [_mutant("survived")] * (1000 - killed)
        result: bool = summary(mutants, reasons={})["met"]
        return result

    assert met(950)
    assert not met(949)
    assert not summary([], reasons={})["met"]


def test_a_run_whose_tests_notice_a_control_is_void() -> None:
    sound = summary([_mutant("killed"), _control("survived"), _control("no tests")], reasons={})
    assert (sound["controls"], sound["failed_controls"], sound["met"], sound["total"]["mutants"]) == (2, [], True, 1)
    for status in ("killed", "timeout", "suspicious"):
        void = summary([_mutant("killed"), _control(status)], reasons={})
        assert (void["failed_controls"], void["met"]) == (["control"], False)
        assert "control" in table(void)
