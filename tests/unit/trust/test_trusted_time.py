"""What time it is at least: floors from signed roles, the uptime since, and never the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle.digest import Digest
from device_client.errors import SealiftError
from device_client.trust.marks import Marks, merged
from device_client.trust.times import format_time
from device_client.trust.trusted_time import BootTime, TimeFloor, TrustedTime, boot_time, carried, raised
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator, stamp

V = "1.0.0"
KEYS = Digest.of(b"keys")
HOUR = timedelta(hours=1)


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _floor(time: datetime, *, role: str = "targets", boot: str = "a", seconds: float = 100.0) -> TimeFloor:
    return TimeFloor(role, KEYS, time, boot, seconds)


def _time(*floors: TimeFloor, clock: datetime, at: BootTime) -> TrustedTime:
    return TrustedTime(floors, clock=lambda: clock, uptime=lambda: at)


def _refused(sim: RepositorySimulator, cache: Path, **kwargs: object) -> str:
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(cache, **kwargs).agree(sim.path(V))  # type: ignore[arg-type]
    return refusal.value.code


# The pure part.


def test_a_clock_that_is_ahead_of_all_floors_is_believed() -> None:
    assert _time(_floor(NOW), clock=NOW + HOUR, at=BootTime("a", 100.0)).now() == NOW + HOUR


def test_a_clock_behind_a_floor_is_not_and_the_uptime_since_counts() -> None:
    assert _time(_floor(NOW), clock=NOW - HOUR, at=BootTime("a", 160.0)).now() == NOW + timedelta(seconds=60)


def test_after_a_restart_the_whole_uptime_counts_since_the_floor_is_older_than_the_boot() -> None:
    assert _time(_floor(NOW), clock=datetime(1970, 1, 1, tzinfo=UTC), at=BootTime("b", 30.0)).now() == NOW + timedelta(seconds=30)


def test_a_boot_clock_that_runs_backwards_lowers_nothing() -> None:
    assert _floor(NOW).reading(BootTime("a", 5.0)) == NOW


def test_uptime_of_several_boots_adds_up_when_it_is_carried() -> None:
    (once,) = carried([_floor(NOW)], at=BootTime("a", 100.0 + 3600))
    (twice,) = carried([once], at=BootTime("b", 3600.0))
    assert twice.reading(BootTime("c", 0.0)) == NOW + 2 * HOUR


@pytest.mark.parametrize("seconds", [0.0, 1e18, float("inf")])
def test_the_end_of_time_does_not_overflow(seconds: float) -> None:
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert _floor(end).reading(BootTime("b", seconds)) == end
    assert _floor(NOW).reading(BootTime("b", seconds)) >= NOW


def test_what_keys_on_the_server_say_does_not_open_a_signed_date() -> None:
    time = _time(_floor(NOW + HOUR, role="timestamp"), _floor(NOW), clock=NOW - HOUR, at=BootTime("a", 100.0))
    assert time.now() == NOW + HOUR
    assert time.now_by_offline_roles() == NOW
    assert _floor(NOW, role="snapshot").is_soft
    assert not any(_floor(NOW, role=role).is_soft for role in ("root", "targets", RELEASE, AUDIT))


def test_with_floors_adds_and_keeps() -> None:
    time = _time(_floor(NOW), clock=NOW - HOUR, at=BootTime("a", 100.0))
    assert time.with_floors([_floor(NOW + HOUR)]).now() == NOW + HOUR
    assert time.with_floors([]).now() == NOW


_FLOORS = st.lists(
    st.builds(
        TimeFloor,
        st.sampled_from(["targets", "root"]),
        st.sampled_from([KEYS, Digest.of(b"others")]),
        st.integers(0, 10**9).map(lambda s: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=s)),
        st.sampled_from(["a", "b"]),
        st.floats(0, 1e7),
    ),
    max_size=6,
)


@given(_FLOORS, _FLOORS, st.floats(0, 1e8))
def test_raising_never_lowers_what_any_floor_proves(floors: list[TimeFloor], seen: list[TimeFloor], uptime: float) -> None:
    at = BootTime("a", uptime)
    after = raised(floors, seen, at=at)
    assert len({(floor.role, floor.keyset) for floor in after}) == len(after)
    for old in (*floors, *seen):
        (new,) = (floor for floor in after if (floor.role, floor.keyset) == (old.role, old.keyset))
        assert new.reading(at) >= old.reading(at)
    assert merged(Marks(times=raised(floors, [], at=at)), Marks(times=raised(seen, [], at=at)), at=at).times == after or after


def test_this_machines_boot_clock_moves_on_within_one_boot() -> None:
    first, second = boot_time(), boot_time()
    assert first.boot == second.boot
    assert second.seconds >= first.seconds > 0


# A refresh.


def test_the_first_refresh_remembers_when_every_role_was_issued(sim: RepositorySimulator, tmp_path: Path) -> None:
    trusted = sim.refresh(tmp_path)
    trusted.agree(sim.path(V))
    assert {floor.role for floor in trusted.marks.times} == {"root", "timestamp", "snapshot", "targets", RELEASE, AUDIT}
    assert {floor.time for floor in trusted.marks.times} == {NOW}


def test_metadata_that_expired_stays_expired_when_the_clock_is_set_back(sim: RepositorySimulator, tmp_path: Path) -> None:
    """A08."""
    old = sim.role_bytes("timestamp")
    sim.now = NOW + timedelta(days=30)
    for role in (sim.timestamp, sim.snapshot, sim.targets, sim.delegated[AUDIT]):
        stamp(role, 20, now=sim.now)
    sim.publish("targets", AUDIT)
    marks = sim.refresh(tmp_path / "a").marks
    assert sim.refresh(tmp_path / "a", marks=marks, now=NOW - timedelta(days=3650)).time.now() == sim.now
    sim.served["timestamp.json"] = old  # valid by the false clock; a new device without memory takes it
    assert _refused(sim, tmp_path / "b", marks=marks, now=NOW) == "metadata_expired"


def test_a_device_without_a_clock_starts_from_what_its_root_says(sim: RepositorySimulator, tmp_path: Path) -> None:
    """A10."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert sim.refresh(tmp_path / "a", now=epoch).time.now() == NOW
    stamp(sim.timestamp, 1, now=NOW - timedelta(days=2))  # issued before the root, and over by then
    assert _refused(sim, tmp_path / "b", now=epoch) == "metadata_expired"


def test_an_absurd_clock_refuses_and_leaves_no_trace(sim: RepositorySimulator, tmp_path: Path) -> None:
    """A09."""
    told: list[Marks] = []
    absurd = NOW + timedelta(days=36_500)
    assert _refused(sim, tmp_path, now=absurd, remember=lambda marks, _: told.append(marks)) == "metadata_expired"
    assert all(floor.time <= NOW for floor in told[0].times)
    assert sim.refresh(tmp_path, marks=told[0]).agree(sim.path(V))


def test_a_thief_of_the_online_keys_moves_time_only_until_they_are_rotated(sim: RepositorySimulator, tmp_path: Path) -> None:
    """R06."""
    honest = (sim.timestamp.expires, sim.timestamp.unrecognized_fields["issued"])
    stamp(sim.timestamp, 1, now=NOW + timedelta(days=36_500))
    told: list[Marks] = []
    assert _refused(sim, tmp_path / "a", remember=lambda marks, _: told.append(marks)) == "metadata_expired"
    sim.timestamp.expires, sim.timestamp.unrecognized_fields["issued"] = honest
    sim.timestamp.version += 1
    assert _refused(sim, tmp_path / "a", marks=told[-1]) == "metadata_expired"
    sim.rotate("timestamp")
    assert sim.refresh(tmp_path / "a", marks=told[-1]).agree(sim.path(V))


def test_a_lines_own_keys_move_time_for_that_line_only(sim: RepositorySimulator, tmp_path: Path) -> None:
    stamp(sim.delegated[RELEASE], 60, now=NOW + timedelta(days=300))
    sim.publish(RELEASE)
    trusted = sim.refresh(tmp_path)
    with pytest.raises(SealiftError) as refusal:
        trusted.agree(sim.path(V))
    assert refusal.value.code == "metadata_expired"
    assert sim.refresh(tmp_path, marks=trusted.marks).time.now() == NOW


def test_a_floor_is_dropped_when_targets_rotates_the_keys_that_signed_it(sim: RepositorySimulator, tmp_path: Path) -> None:
    stamp(sim.delegated[RELEASE], 60, now=NOW + timedelta(days=300))
    sim.publish(RELEASE)
    trusted = sim.refresh(tmp_path / "a")
    with pytest.raises(SealiftError):
        trusted.agree(sim.path(V))
    stamp(sim.delegated[RELEASE], 60)
    sim.rotate_delegated(RELEASE)
    assert sim.refresh(tmp_path / "a", marks=trusted.marks).agree(sim.path(V))


@pytest.mark.parametrize("role", ["root", "snapshot", "timestamp"])
def test_a_top_level_role_without_issued_is_taken_and_sets_no_floor(role: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    signed = {"root": sim.root, "snapshot": sim.snapshot, "timestamp": sim.timestamp}[role]
    del signed.unrecognized_fields["issued"]
    sim.bootstrap = sim.role_bytes("root")
    assert role not in {floor.role for floor in sim.refresh(tmp_path).marks.times}


def test_targets_without_issued_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    del sim.targets.unrecognized_fields["issued"]
    assert _refused(sim, tmp_path) == "issued_missing"


@pytest.mark.parametrize(
    ("value", "code"), [("2026-06-01", "time_syntax"), (5, "time_syntax"), (format_time(NOW + timedelta(days=2)), "issued_order")]
)
@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_false_issued_is_refused_where_none_would_be_taken(
    value: object, code: str, role: str, sim: RepositorySimulator, tmp_path: Path
) -> None:
    signed = {"snapshot": sim.snapshot, "timestamp": sim.timestamp}[role]
    signed.expires = NOW + timedelta(days=1)
    signed.unrecognized_fields["issued"] = value
    assert _refused(sim, tmp_path) == code


@pytest.mark.parametrize(("role", "days"), [("root", 401), ("targets", 181)])
def test_a_top_level_role_that_lives_too_long_is_refused(role: str, days: int, sim: RepositorySimulator, tmp_path: Path) -> None:
    stamp({"root": sim.root, "targets": sim.targets}[role], days)
    sim.bootstrap = sim.role_bytes("root")
    assert _refused(sim, tmp_path / "a") == "expiry_over_cap"
    stamp({"root": sim.root, "targets": sim.targets}[role], days - 1)
    sim.bootstrap = sim.role_bytes("root")
    assert sim.refresh(tmp_path / "b")
