"""A grace stretches snapshot and timestamp to the second, and nothing that is signed offline."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from device_client.errors import SealiftError, TrustError
from device_client.trust.expiry import NO_GRACE, is_over, stretched_text
from device_client.trust.times import format_time
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator
from tests.unit.trust.test_refresh_edges import MODEL, V, _list_channel

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
GRACE = 5 * DAY


def test_a_role_counts_until_the_second_of_its_expiry() -> None:
    for role in ("root", "timestamp", "snapshot", "targets", RELEASE):
        assert not is_over(role, NOW, now=NOW - SECOND, grace=NO_GRACE)
        assert is_over(role, NOW, now=NOW, grace=NO_GRACE)


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_grace_ends_to_the_second(role: str) -> None:
    assert not is_over(role, NOW, now=NOW + GRACE - SECOND, grace=GRACE)
    assert is_over(role, NOW, now=NOW + GRACE, grace=GRACE)
    assert is_over(role, NOW, now=NOW + GRACE + SECOND, grace=GRACE)


@pytest.mark.parametrize("role", ["root", "targets", RELEASE, AUDIT, f"{RELEASE}-0f", "snapshots", "timestamp-digits"])
def test_no_other_role_gets_any(role: str) -> None:
    assert is_over(role, NOW, now=NOW, grace=GRACE)


@pytest.mark.parametrize(("ago", "text"), [(0 * DAY, "0 days"), (SECOND, "1 day"), (DAY, "1 day"), (DAY + SECOND, "2 days")])
def test_how_long_ago_is_said_in_days_rounded_up(ago: timedelta, text: str) -> None:
    assert stretched_text("snapshot", NOW, now=NOW + ago) == f"snapshot expired {text} ago"


# The same through a whole refresh by the production client.


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    _list_channel(simulator)
    return simulator


def _expire(sim: RepositorySimulator, role: str, at: timedelta) -> None:
    tops = {"root": sim.root, "timestamp": sim.timestamp, "snapshot": sim.snapshot, "targets": sim.targets}
    signed = tops.get(role) or sim.delegated[role]
    signed.expires = NOW + at
    if role == "root":
        sim.next_root()


def _ask(sim: RepositorySimulator, cache: Path, *, after: timedelta, grace: timedelta) -> str:
    trusted = sim.refresh(cache, now=NOW + after, grace=grace)
    trusted.agree(sim.path(V))
    return trusted.stretched


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_an_online_role_within_the_grace_counts_and_is_told_and_one_second_later_it_does_not(
    sim: RepositorySimulator, tmp_path: Path, role: str
) -> None:
    for each in ("timestamp", "snapshot"):
        _expire(sim, each, 20 * DAY)
    _expire(sim, role, DAY)
    assert _ask(sim, tmp_path / "a", after=DAY - SECOND, grace=GRACE) == ""
    assert _ask(sim, tmp_path / "b", after=DAY + GRACE - SECOND, grace=GRACE) == f"{role} expired 5 days ago"
    for after, grace in ((DAY + GRACE, GRACE), (DAY + GRACE + SECOND, GRACE), (DAY, NO_GRACE)):
        with pytest.raises(TrustError) as refusal:
            _ask(sim, tmp_path / f"c{after}{grace}", after=after, grace=grace)
        assert refusal.value.code == "metadata_expired"


def test_both_online_roles_are_told(sim: RepositorySimulator, tmp_path: Path) -> None:
    _expire(sim, "timestamp", DAY)
    _expire(sim, "snapshot", 2 * DAY)
    told = _ask(sim, tmp_path, after=3 * DAY, grace=GRACE)
    assert told == "snapshot expired 1 day ago, timestamp expired 2 days ago"


@pytest.mark.parametrize("role", ["root", "targets", RELEASE, AUDIT])
def test_an_offline_role_that_expired_a_second_ago_is_refused_whatever_the_grace(
    sim: RepositorySimulator, tmp_path: Path, role: str
) -> None:
    for online in ("timestamp", "snapshot"):
        _expire(sim, online, 20 * DAY)
    _expire(sim, role, DAY)
    _ask(sim, tmp_path / "a", after=DAY - SECOND, grace=30 * DAY)
    with pytest.raises(SealiftError) as refusal:
        _ask(sim, tmp_path / "b", after=DAY + SECOND, grace=30 * DAY)
    assert refusal.value.code == "metadata_expired"


def test_an_expired_release_role_gives_no_channel_either(sim: RepositorySimulator, tmp_path: Path) -> None:
    for online in ("timestamp", "snapshot"):
        _expire(sim, online, 20 * DAY)
    _expire(sim, RELEASE, DAY)
    trusted = sim.refresh(tmp_path, now=NOW + DAY + SECOND, grace=30 * DAY)
    with pytest.raises(TrustError) as refusal:
        trusted.channel_ref(MODEL)
    assert refusal.value.code == "metadata_expired"


@pytest.mark.parametrize(("late", "refused"), [(-SECOND, False), (0 * SECOND, True)])
def test_a_clock_that_is_behind_does_not_lengthen_the_grace(
    sim: RepositorySimulator, tmp_path: Path, late: timedelta, refused: bool
) -> None:
    """The release role was signed after the timestamp's grace had ended: so late it is at least, whatever the clock says."""
    _expire(sim, "timestamp", DAY)
    _expire(sim, "snapshot", 20 * DAY)
    sim.delegated[RELEASE].unrecognized_fields["issued"] = format_time(NOW + DAY + GRACE + late)
    if not refused:
        _ask(sim, tmp_path, after=0 * DAY, grace=GRACE)
        return
    with pytest.raises(TrustError) as refusal:
        _ask(sim, tmp_path, after=0 * DAY, grace=GRACE)
    assert (refusal.value.code, refusal.value.where) == ("metadata_expired", "timestamp")
