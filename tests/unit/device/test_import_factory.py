"""A factory file is judged as of the day it was made: expiry since then is an alarm, and everything else refuses as ever."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from device_client.bundle.path import ModelPath
from device_client.errors import SealiftError
from device_client.install.import_factory import install_factory
from device_client.install.state import Deployment
from tests.simulator import AUDIT, NOW, RELEASE
from tests.unit.device.offline_files import members_of, release, write_file
from tests.unit.device.test_import import never, passes
from tests.unit.device.world import THE_MODEL, World, bundle, payload_of, verdict

DAY = timedelta(days=1)
YEARS = 730 * DAY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "factory.tar"


def install(world: World, file: Path, **options: object) -> dict[ModelPath, Deployment]:
    chosen = {"selftest": passes, **options}
    return install_factory(world.device, file, clock=world.clock, uptime=world.uptime, **chosen)  # type: ignore[arg-type]


def test_a_device_that_lay_in_its_box_for_two_years_gets_its_factory_bundle_and_an_alarm(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1)
    write_file(file, release(world, made))
    world.now = NOW + YEARS
    found = install(world, file)
    assert found[THE_MODEL].manifest == made.digest
    assert world.running() == 2.0
    with world.state() as state:
        assert {alarm.code for alarm in state.alarms(THE_MODEL)} == {"factory_expired"}
        assert payload_of(state.outbox()[-1][1])["code"] == "factory_expired"
        assert state.memory(THE_MODEL).counter is not None, "remembered like any installation"


def test_a_fresh_factory_file_raises_no_alarm(world: World, file: Path) -> None:
    write_file(file, release(world, bundle("1.0.0", counter=1)))
    install(world, file)
    with world.state() as state:
        assert not state.alarms(THE_MODEL)


@pytest.mark.parametrize("year", [-56, 0, 2])
def test_a_clock_that_is_wrong_makes_no_difference(world: World, file: Path, year: int) -> None:
    write_file(file, release(world, bundle("1.0.0", counter=1)))
    world.now = NOW + year * 365 * DAY
    assert THE_MODEL in install(world, file)


def test_what_had_expired_on_the_day_the_file_was_made_is_refused(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1)
    release(world, made)
    world.sim.timestamp.unrecognized_fields["issued"] = "2026-09-15T12:00:00Z"  # after the audit role's end
    world.sim.timestamp.expires = NOW + 200 * DAY
    write_file(file, members_of(world, made))
    world.now = NOW + YEARS
    with pytest.raises(SealiftError) as refused:
        install(world, file, selftest=never)
    assert refused.value.code == "metadata_expired"


def _withdrawn(world: World) -> dict[str, bytes]:
    return release(world, bundle("1.0.0", counter=1), status="withdrawn")


def _failed(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    return release(world, made, variants={made.model(): verdict("FAILED")})


def _verdict_over(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    return release(world, made, variants={made.model(): verdict(days=-1)})


def _other_bytes(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    release(world, made)
    world.audit_entry(bundle("1.0.0", counter=1, scale=9.0))
    world.sim.publish(AUDIT)
    return members_of(world, made)


def _not_signed(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    release(world, made)
    world.sim.signers[RELEASE] = world.sim.signers[RELEASE][:1]
    return members_of(world, made)


def _wrong_model(world: World) -> dict[str, bytes]:
    return release(world, bundle("1.0.0", counter=1, golden_scale=5.0))


REFUSED: dict[str, tuple[Callable[[World], dict[str, bytes]], str]] = {
    "withdrawn": (_withdrawn, "withdrawn"),
    "a verdict that is not accepted": (_failed, "verdict_failed"),
    "a verdict that was over when the file was made": (_verdict_over, "verdict_expired"),
    "roles that name other bytes": (_other_bytes, "entries_differ"),
    "one signature of two": (_not_signed, "signature_threshold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_factory_is_excused_from_nothing_else(world: World, file: Path, case: str) -> None:
    make, code = REFUSED[case]
    write_file(file, make(world))
    world.now = NOW + YEARS
    with pytest.raises(SealiftError) as refused:
        install(world, file, selftest=never)
    assert refused.value.code == code
    with world.state() as state:
        assert state.active(THE_MODEL) is None


def test_a_factory_model_that_computes_something_else_here_is_refused(world: World, file: Path) -> None:
    from device_client.install.selftest import run_selftest

    write_file(file, _wrong_model(world))
    with pytest.raises(SealiftError) as refused:
        install(world, file, selftest=run_selftest)
    assert refused.value.code == "selftest_mismatch"


def test_the_first_poll_afterwards_judges_by_the_real_time_and_updates(world: World, file: Path) -> None:
    write_file(file, release(world, bundle("1.0.0", counter=1)))
    world.now = NOW + 60 * DAY
    install(world, file)
    assert world.refusal(selftest=never).code == "metadata_expired"
    world.pass_days(0)
    world.publish(bundle("1.1.0", counter=2, scale=3.0), seq=2, variants=None)
    second = bundle("1.1.0", counter=2, scale=3.0)
    world.audit_entry(second, seq=2, variants={second.model(): verdict(days=80)})
    world.sim.publish(AUDIT)
    assert world.poll(selftest=passes).result == "installed"
    with world.state() as state:
        assert "factory_expired" not in {alarm.code for alarm in state.alarms(THE_MODEL)}
