"""``kill -9`` in every state of an installation: the next cycle finishes, and the server hears of it once (F05)."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_client.install.machine import State
from tests.faults.kills import Moment, kill
from tests.faults.scenarios import SCENARIOS


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: str(moment.name.lower()))
def test_a_process_killed_in_any_state_of_an_update_leaves_a_device_that_finishes_it(moment: Moment, place: Path) -> None:
    reports = [kill("update", place / state.name, state, moment) for state in State]
    killed = {report.state for report in reports if report.killed}
    assert killed >= {State.CHECK, State.OFFERED, State.DOWNLOADING, State.VERIFY, State.STAGE, State.SELFTEST, State.READY}
    if moment is Moment.ENTERING:
        assert killed >= {State.ACTIVATE, State.COMMIT, State.REPORT}, "entered and left within one transaction"


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("moment", Moment, ids=lambda moment: str(moment.name.lower()))
def test_a_process_killed_in_any_state_of_any_scenario_leaves_a_device_that_finishes_it(
    scenario: str, moment: Moment, place: Path
) -> None:
    assert sum(kill(scenario, place / state.name, state, moment).killed for state in State) >= 2
