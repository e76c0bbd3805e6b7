"""Random faults of the system's calls during a poll over sockets; then one poll without faults finishes the job (F02).

``make faults`` does 500 runs. Skips where libfiu is not installed; ``.ci/run`` installs it where it can.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_client.install.folder import open_device
from tests.faults.front import Front
from tests.faults.random_faults import ROOT, Faulty, is_available
from tests.faults.run import RANDOM_SCENARIOS
from tests.unit.device.world import World, bundle, verdict

SCENARIOS = ("update", "resumed download", "probation committed")
RUNS = 6


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
    with Faulty(place, scenarios=RANDOM_SCENARIOS) as faulty:
        for seed in range(1000, 1200):
            faulty.run(RANDOM_SCENARIOS[seed % len(RANDOM_SCENARIOS)], seed=seed)
        assert faulty.runs == 200


@pytest.mark.slow
def test_the_command_under_random_faults_from_its_first_instruction_on_never_harms_the_device(place: Path) -> None:
    """Whole processes, so that Python's own start may fail too; the clean one says ``installed`` or ``current``."""
    if shutil.which("fiu-run") is None:
        pytest.skip("fiu-run is not installed: apt-get install fiu-utils")
    world = World(place / "device")
    days = (datetime.now(UTC) - world.now).days
    world.pass_days(max(0, days))
    made = bundle("1.0.0", counter=1)
    world.publish(made, variants={made.model(): verdict(days=days + 20)})
    with Front(world) as front:
        config = world.device.folder.config
        config.write_text(config.read_text().replace(world.device.config.server, front.url))
        for seed in range(6):
            faults = ["fiu-run", "-x", "-c", f"enable_random name=posix/io/*,probability={0.002 * (seed + 1)}"]
            command(place, *faults)
        clean = command(place)
        assert clean.returncode == 0, clean.stderr
        assert json.loads(clean.stdout)["result"] in {"installed", "current"}
    world.device = open_device(place / "device")
    assert world.running() == 2.0
    assert [event for event, _ in world.events()].count("installed") == 1


def command(place: Path, *before: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["device", "poll", "--dir", str(place / "device"), "--json"]
    return subprocess.run(
        [*before, sys.executable, "-m", "sealift", *options],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=place,
        timeout=120,
    )
