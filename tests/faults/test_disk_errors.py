"""A disk that is full, read-only or broken, at any call: an error of Sealift's own, the old model, and a clean cycle that finishes.

F03, F04, P23. Here every 53rd call; ``make faults`` takes all.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults.disk_errors import Disturbance, Failure, disturb
from tests.faults.scenarios import SCENARIOS

EVERY = 53


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: str(failure.name.lower()))
@pytest.mark.parametrize("scenario", ["update", "lost database"])
def test_a_failing_disk_ends_in_an_error_with_a_code_and_the_old_model_goes_on(
    scenario: str, failure: Failure, place: Path
) -> None:
    report = disturb(scenario, place, failure, every=EVERY, start=len(failure.name))
    assert report.runs >= 3
    assert set(report.ends) != {"finished"}, "no failure was felt: nothing was tested"


@pytest.mark.slow
@pytest.mark.parametrize("failure", Failure, ids=lambda failure: str(failure.name.lower()))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_disk_that_fails_at_any_call_of_any_scenario_leaves_a_device_that_finishes_it(
    scenario: str, failure: Failure, place: Path
) -> None:
    assert disturb(scenario, place, failure).runs >= 50


def test_a_full_disk_still_reads_removes_and_renames() -> None:
    full = Disturbance(Failure.FULL, at=1)
    told = [full(kind, "a") for kind in ("write", "read", "unlink", "rename", "write")]
    assert [getattr(error, "errno", None) for error in told] == [None, None, None, None, errno.ENOSPC]


def test_a_broken_file_stays_broken_and_others_do_not() -> None:
    broken = Disturbance(Failure.BROKEN_FILE, at=1)
    told = [broken("read", name) is not None for name in ("a", "a", "b", "a")]
    assert told == [False, True, False, True]
    once = Disturbance(Failure.BROKEN, at=1)
    assert [once("read", "a") is not None for _ in range(3)] == [False, True, False]
