"""The channel is the release role's word alone: what of it counts before the audit role has signed, and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_client.bundle.counter import Counter
from device_client.errors import TrustError
from device_client.trust.agreement import AgreedRelease
from device_client.trust.channel import Channel, backed_floor, check_latest
from device_client.trust.custom import ReleaseCustom, Rollout
from device_client.trust.refs import BlobRef
from tests.simulator import AUDIT, RELEASE, RepositorySimulator


def _agreed(tmp_path: Path, version: str, counter: int, *, percent: int = 100) -> AgreedRelease:
    sim = RepositorySimulator()
    custom = ReleaseCustom(Counter(0, counter), Counter(0, 0), BlobRef.of(b"m"), Rollout(max_percent=percent)).to_json()
    sim.add_release_entry(version, counter=Counter(0, counter), manifest=b"manifest", custom=custom)
    sim.add_audit_entry(version, counter=Counter(0, counter), manifest=b"manifest")
    sim.publish(RELEASE, AUDIT)
    return sim.refresh(tmp_path / f"{version}-{counter}-{percent}").agree(sim.path(version))


def _channel(*, latest: str = "2.0.0", counter: int = 5, floor: int = 3) -> Channel:
    return Channel(latest, Counter(0, counter), Counter(0, floor))


@pytest.mark.parametrize(("counter", "counts"), [(2, False), (3, True), (4, True)])
def test_a_floor_counts_at_or_below_an_agreed_counter_only(counter: int, counts: bool, tmp_path: Path) -> None:
    found = backed_floor(_channel(), [_agreed(tmp_path, "1.0.0", counter)])
    assert found == (Counter(0, 3) if counts else None)


def test_a_floor_that_only_a_canary_reaches_does_not_count(tmp_path: Path) -> None:
    assert backed_floor(_channel(), [_agreed(tmp_path, "2.0.0", 5, percent=99)]) is None
    assert backed_floor(_channel(), [_agreed(tmp_path, "2.0.0", 5, percent=99), _agreed(tmp_path, "1.0.0", 3)]) == Counter(0, 3)


def test_a_floor_without_any_agreed_release_does_not_count() -> None:
    assert backed_floor(_channel(), []) is None


def test_the_newest_release_carries_the_channels_counter(tmp_path: Path) -> None:
    check_latest(_channel(), _agreed(tmp_path, "2.0.0", 5))
    for version, counter in (("2.0.0", 4), ("2.0.0", 6), ("2.0.1", 5)):
        with pytest.raises(TrustError) as refusal:
            check_latest(_channel(), _agreed(tmp_path, version, counter))
        assert refusal.value.code == "channel_mismatch"
