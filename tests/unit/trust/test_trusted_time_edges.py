"""Floors of trusted time at their exact moments, and this machine's boot clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device_client.bundle.digest import Digest
from device_client.trust import trusted_time
from device_client.trust.trusted_time import BootTime, TimeFloor, TrustedTime, boot_time, carried, raised

KEYS, OTHER_KEYS = Digest.of(b"keys"), Digest.of(b"other keys")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)


def _floor(
    role: str = "root", time: datetime = NOW, *, boot: str = "one", seconds: float = 100.0, keys: Digest = KEYS
) -> TimeFloor:
    return TimeFloor(role, keys, time, boot, seconds)


def _s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def test_a_floor_goes_on_with_the_boot_that_it_was_stored_in_and_with_any_other_from_its_start() -> None:
    floor = _floor()
    assert floor.reading(BootTime("one", 100.0)) == NOW
    assert floor.reading(BootTime("one", 130.5)) == NOW + _s(30.5)
    assert floor.reading(BootTime("one", 99.0)) == NOW
    assert floor.reading(BootTime("two", 7.0)) == NOW + _s(7)
    assert floor.reading(BootTime("two", -7.0)) == NOW


def test_a_floor_at_or_behind_the_end_of_time_stays_where_it_is() -> None:
    for at in (END - _s(1), END, END + timedelta(hours=5)):
        assert _floor(time=at).reading(BootTime("two", 0.5)) == min(at + _s(0.5), max(at, END))
    assert _floor(time=END - _s(1)).reading(BootTime("two", 1e9)) == END
    assert _floor(time=END + timedelta(hours=5)).reading(BootTime("two", 1e9)) == END + timedelta(hours=5)


def test_a_carried_floor_says_the_same_from_here_on_cut_to_the_second() -> None:
    at = BootTime("two", 61.7)
    (one, two) = carried([_floor("targets"), _floor("root")], at=at)
    assert one == _floor("root", NOW + _s(61), boot="two", seconds=61.7)
    assert two == _floor("targets", NOW + _s(61), boot="two", seconds=61.7)
    assert carried([], at=at) == ()


@pytest.mark.parametrize(
    ("role", "soft"), [("snapshot", True), ("timestamp", True), ("root", False), ("targets", False), ("audit-x", False)]
)
def test_only_what_keys_on_the_server_signed_is_soft(role: str, soft: bool) -> None:
    assert _floor(role).is_soft is soft


def test_raising_keeps_the_later_reading_of_each_role_and_key_set() -> None:
    at = BootTime("one", 100.0)
    low, high, others = _floor(), _floor(time=NOW + _s(1)), _floor(time=NOW - _s(9), keys=OTHER_KEYS)
    both = tuple(sorted((high, others)))
    assert raised([low, others], [high], at=at) == raised([high], [low, others], at=at) == both
    same_reading = _floor(boot="one", time=NOW - _s(50), seconds=50.0)
    assert raised([low], [same_reading], at=at) == (low,)
    assert raised([same_reading], [low], at=at) == (same_reading,)
    assert raised([], [], at=at) == ()


def test_trusted_time_is_the_latest_of_all_cut_to_the_second() -> None:
    clock = NOW.replace(microsecond=999_999)
    floors = [_floor("snapshot", NOW + _s(20)), _floor("root", NOW + _s(10))]
    at = BootTime("one", 100.9)
    told = TrustedTime(floors, clock=lambda: clock, uptime=lambda: at)
    assert told.now() == NOW + _s(20)
    assert told.now_by_offline_roles() == NOW + _s(10)
    assert TrustedTime(clock=lambda: clock, uptime=lambda: at).now() == NOW
    later = TrustedTime(floors, clock=lambda: NOW + _s(60), uptime=lambda: at)
    assert later.now() == later.now_by_offline_roles() == NOW + _s(60)


def test_further_floors_are_added_and_the_clocks_stay() -> None:
    told = TrustedTime([_floor()], clock=lambda: NOW - _s(1), uptime=lambda: BootTime("one", 100.0))
    more = told.with_floors([_floor("targets", NOW + _s(5))])
    assert (told.now(), more.now()) == (NOW, NOW + _s(5))
    assert told.with_floors([]).now() == NOW


def test_without_a_clock_given_those_of_this_machine_are_read() -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    assert abs(TrustedTime().now() - datetime.now(UTC)) < _s(60)
    here = boot_time()
    floor = TimeFloor("root", KEYS, past, here.boot, here.seconds)
    read = TrustedTime([floor], clock=lambda: past).now()
    assert past <= read < past + _s(60)


def test_the_boot_of_this_machine_is_named_by_its_kernel_and_counts_sleep() -> None:
    here = boot_time()
    assert here.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(here.seconds - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60


def test_where_the_kernel_names_no_boot_each_process_counts_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trusted_time._boot_id.cache_clear()
    monkeypatch.setattr(trusted_time, "_BOOT_ID", tmp_path / "none")
    try:
        first, second = boot_time(), boot_time()
    finally:
        trusted_time._boot_id.cache_clear()
    assert first.boot == second.boot
    assert first.boot.startswith("process-")
    assert 0 <= first.seconds <= second.seconds < time.monotonic() + 1
    assert second.seconds <= time.monotonic() - trusted_time._PROCESS
