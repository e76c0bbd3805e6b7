"""The owner's grace stretches snapshot and timestamp of a file, to the second, and an import that needed it says so."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from device_client.errors import SealiftError
from device_client.install.status import read_status, status_text
from tests.simulator import AUDIT, NOW, RELEASE
from tests.unit.device.offline_files import import_into, release, write_file
from tests.unit.device.test_import import never, passes
from tests.unit.device.world import THE_MODEL, World, bundle, payload_of

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
TIMESTAMP_ENDS, SNAPSHOT_ENDS = NOW + DAY, NOW + 7 * DAY


@pytest.fixture
def file(world: World, tmp_path: Path) -> Path:
    return write_file(tmp_path / "F.tar", release(world, bundle("1.0.0", counter=1)))


def refused(world: World, file: Path) -> str:
    with pytest.raises(SealiftError) as refusal:
        import_into(world, file, selftest=never)
    return refusal.value.code


def test_without_a_grace_an_expired_timestamp_is_refused(world: World, file: Path) -> None:
    world.now = TIMESTAMP_ENDS
    assert refused(world, file) == "metadata_expired"
    world.now = TIMESTAMP_ENDS - SECOND
    assert import_into(world, file, selftest=passes).result == "installed"


def test_a_grace_holds_to_the_second(world: World, file: Path) -> None:
    world.set_policy("[import]\noffline_grace_days = 3")
    for now in (TIMESTAMP_ENDS + 3 * DAY + SECOND, TIMESTAMP_ENDS + 3 * DAY):
        world.now = now
        assert refused(world, file) == "metadata_expired"
    world.now = TIMESTAMP_ENDS + 3 * DAY - SECOND
    assert import_into(world, file, selftest=passes).result == "installed"


@pytest.mark.parametrize("role", ["targets", RELEASE, AUDIT])
def test_an_offline_role_gets_none(world: World, tmp_path: Path, role: str) -> None:
    made = bundle("1.0.0", counter=1)
    release(world, made)
    signed = world.sim.targets if role == "targets" else world.sim.delegated[role]
    signed.expires = NOW + 3 * DAY
    world.set_policy("[import]\noffline_grace_days = 30")
    file = write_file(tmp_path / "F.tar", release(world, made))
    world.now = NOW + 3 * DAY + SECOND
    assert refused(world, file) == "metadata_expired"
    world.now = NOW + 3 * DAY - SECOND
    assert import_into(world, file, selftest=passes).result == "installed"


def test_a_verdict_gets_none(world: World, file: Path) -> None:
    world.set_policy("[import]\noffline_grace_days = 30")
    world.now = NOW + 20 * DAY
    assert refused(world, file) == "verdict_expired"


def test_a_poll_of_the_server_gets_none(world: World, file: Path) -> None:
    world.set_policy("[import]\noffline_grace_days = 30")
    world.now = TIMESTAMP_ENDS + SECOND
    import_into(world, file, selftest=passes)
    world.server.offered = "1.0.0"
    assert world.refusal(selftest=never).code == "metadata_expired"


def test_an_import_that_needed_the_grace_is_told_in_journal_status_and_report(world: World, file: Path) -> None:
    world.set_policy("[import]\noffline_grace_days = 30")
    world.now = SNAPSHOT_ENDS + 2 * DAY + SECOND
    import_into(world, file, selftest=passes)
    detail = "offline_grace used: snapshot expired 3 days ago, timestamp expired 9 days ago"
    with world.state() as state:
        told = [(entry.event, entry.code, entry.detail) for entry in state.journal(limit=9) if entry.event == "alarm"]
        reports = [payload_of(envelope) for _, envelope in state.outbox()]
    assert told == [("alarm", "offline_grace", detail)]
    assert [(each["event"], each["code"], each["detail"]) for each in reports][-1] == ("alarm", "offline_grace", detail)
    status = status_text(read_status(world.device, clock=world.clock, uptime=world.uptime))
    assert "ALARM offline_grace" in status


def test_the_alarm_ends_with_a_refresh_that_does_without_and_is_not_raised_where_none_was_needed(world: World, file: Path) -> None:
    world.set_policy("[import]\noffline_grace_days = 30")
    world.now = TIMESTAMP_ENDS + SECOND
    import_into(world, file, selftest=passes)
    world.pass_days(0)
    world.server.offered = "1.0.0"
    assert world.poll(selftest=never).result == "current"
    with world.state() as state:
        assert not state.alarms(THE_MODEL)


def test_a_refused_import_that_got_that_far_on_the_grace_says_so_too(world: World, tmp_path: Path) -> None:
    world.set_policy("[import]\noffline_grace_days = 30")
    file = write_file(tmp_path / "F.tar", release(world, bundle("1.0.0", counter=1), status="withdrawn"))
    world.now = TIMESTAMP_ENDS + SECOND
    assert refused(world, file) == "withdrawn"
    with world.state() as state:
        assert {alarm.code for alarm in state.alarms(THE_MODEL)} >= {"offline_grace"}
