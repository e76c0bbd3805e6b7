"""Random faults of the system's calls during a poll over sockets; then one poll without faults finishes the job (F02).

``make faults`` does 500 runs. Skips where libfiu is not installed; ``.ci/run`` installs it where it can.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.random_faults import Faulty, is_available

SCENARIOS = ("first install", "update", "withdrawal")
RUNS = 9


@pytest.fixture(autouse=True)
def _needs_libfiu() -> None:
    if not is_available():
        pytest.skip("libfiu is not installed: apt-get install fiu-utils")


def test_after_polls_under_random_faults_one_clean_poll_finishes_the_job(place: Path) -> None:
    with Faulty(place, scenarios=SCENARIOS) as faulty:
        for seed in range(RUNS):
            faulty.run(SCENARIOS[seed % len(SCENARIOS)], seed=seed)
        assert faulty.runs == RUNS
        assert set(faulty.ends) - {"installed", "current", "none"}, "no fault was felt: nothing was tested"


@pytest.mark.slow
def test_after_two_hundred_runs_under_random_faults_every_device_has_come_back(place: Path) -> None:
    with Faulty(place, scenarios=SCENARIOS) as faulty:
        for seed in range(1000, 1200):
            faulty.run(SCENARIOS[seed % len(SCENARIOS)], seed=seed)
        assert faulty.runs == 200
