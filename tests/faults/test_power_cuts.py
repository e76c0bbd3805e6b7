"""The power goes between any two calls to the disk: the device boots, old or new runs, and one clean cycle finishes the job.

Here every 800th of some twenty thousand disks; ``make faults`` boots from all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.power import play, record
from tests.faults.scenarios import SCENARIOS

EVERY = 800


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_power_cut_leaves_the_old_or_the_new_model_and_the_next_cycle_finishes(scenario: str, place: Path) -> None:
    report = play(scenario, place, every=EVERY, start=len(scenario))
    assert report.booted >= 1
    assert report.distinct >= 100, "a scenario in which next to nothing is written shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_power_cut_at_every_point_leaves_the_old_or_the_new_model(scenario: str, place: Path) -> None:
    assert play(scenario, place).booted >= 100


def test_what_a_power_cut_may_leave_is_the_same_in_every_run(place: Path) -> None:
    """Temporary names are random; everything else in the log is not, or a failure could not be looked at again."""
    logs = [record("update", place / name).recorder.events for name in ("one", "two")]
    assert [type(event) for event in logs[0]] == [type(event) for event in logs[1]]
