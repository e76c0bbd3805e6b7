"""The device's clock is wrong, or somebody moves it: what was signed says how late it is at least."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from demo.names import AUDIT, SECOND
from tests.threats.hands import Hands
from tests.threats.judge import expect_current, expect_installed, expect_refusal
from tests.threats.world import World

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def floors(world: World) -> dict[tuple[str, str], str]:
    return {(role, keyset): time for role, keyset, time in world.rows("SELECT role, keyset, time FROM times")}


def test_what_has_expired_stays_expired_when_the_clock_is_set_back_by_years(world: World) -> None:
    """A08. The audit role is over; the device saw that late a timestamp, and neither clock nor a restart undoes it."""
    hands = Hands(world)
    hands.edit(AUDIT, days=1)
    before = world.footprint()
    world.pass_time(days=3)
    hands.announce()
    expect_refusal(world, "metadata_expired", before=before)
    known = floors(world)
    for clock in (world.true_time() - timedelta(days=3), datetime(2016, 1, 1, tzinfo=UTC)):
        world.wrong_clock = clock
        assert world.refusal().code == "metadata_expired"
    world.reboot(name="after a power cut")
    assert world.refusal().code == "metadata_expired"
    assert {key: time for key, time in floors(world).items() if time < known[key]} == {}, "no floor came down"
    world.wrong_clock = None
    hands.edit(AUDIT)
    expect_installed(world, SECOND, before=before)


def test_a_clock_beyond_every_expiry_refuses_and_leaves_no_trace_in_what_is_remembered(world: World) -> None:
    """A09. The wall clock never raises a floor: with the right time the next poll installs."""
    before, known = world.footprint(), floors(world)
    world.wrong_clock = world.true_time() + timedelta(days=36_500)
    expect_refusal(world, "metadata_expired", before=before, is_told=False)
    assert world.alarms() == []
    late = world.true_time() + timedelta(seconds=1)  # floors are kept to the second
    assert all(datetime.fromisoformat(time) <= late for time in floors(world).values())
    assert set(known) <= set(floors(world))
    world.wrong_clock = None
    expect_installed(world, SECOND, before=before)


def test_reports_dated_by_an_absurd_clock_do_not_silence_the_device_for_ever(world: World) -> None:
    """A09. The server refuses a report from the future; what the device says afterwards must get through all the same."""
    world.wrong_clock = world.true_time() + timedelta(days=36_500)
    assert world.refusal().code == "metadata_expired"
    world.wrong_clock = None
    assert world.poll().result == "installed"
    assert world.waiting() == 0
    assert ("installed", None) in world.told()[1:]


def test_a_device_that_wakes_up_in_1970_goes_on_from_what_it_knew(world: World) -> None:
    """A10. Time goes on from the floor by the boot clock, and what both roles sign is installed by that time."""
    before = world.footprint()
    world.wrong_clock = EPOCH
    world.reboot(name="no battery")
    expect_installed(world, SECOND, before=before)
    ((installed,),) = world.rows("SELECT installed FROM deployments ORDER BY id DESC LIMIT 1")
    issued = min(world.web.newest(role).signed.unrecognized_fields["issued"] for role in ("snapshot", "timestamp"))
    assert datetime.fromisoformat(issued) <= datetime.fromisoformat(installed) <= world.true_time(), "not 1970"
    assert world.waiting() == 0, "the server takes a report that is dated by the floor"


def test_in_1970_too_what_has_expired_by_the_floor_is_expired(world: World) -> None:
    """A10."""
    world.web.offer(world.town.first.bundle.path)
    hands = Hands(world)
    before = world.footprint()
    expect_current(world, before=before)
    world.reboot(name="no battery")
    world.wrong_clock = EPOCH
    world.pass_time(days=2)  # the device is up all that time, and its boot clock counts
    expect_refusal(world, "metadata_expired", before=before)
    hands.announce()
    expect_current(world, before=before)
