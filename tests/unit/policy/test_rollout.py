"""The share of a device is fixed, even, exact, and never smaller for a larger percentage."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import Digest
from device_client.errors import PolicyError
from device_client.policy.rollout import check_rollout, is_in_share, is_open, rollout_share
from device_client.trust.custom import Rollout
from device_client.trust.trusted_time import BootTime, TimeFloor, TrustedTime
from tests.unit.policy.agreed import NOW

DEVICE, MANIFEST = Digest.of(b"device"), Digest.of(b"manifest")


def test_the_share_is_the_documented_function() -> None:
    joined = hashlib.sha256(b"device").digest() + hashlib.sha256(b"manifest").digest()
    assert rollout_share(DEVICE, MANIFEST) == int.from_bytes(hashlib.sha256(joined).digest()[:8], "big")


@given(st.binary(), st.binary(), st.integers(0, 99))
def test_a_larger_percentage_never_loses_a_device(device: bytes, manifest: bytes, percent: int) -> None:
    one, two = Digest.of(device), Digest.of(manifest)
    assert not is_in_share(one, two, max_percent=0)
    assert is_in_share(one, two, max_percent=100)
    assert is_in_share(one, two, max_percent=percent) <= is_in_share(one, two, max_percent=percent + 1)


def test_shares_are_even_and_differ_between_releases() -> None:
    devices = [Digest.of(bytes([index % 256, index // 256])) for index in range(4000)]
    chosen = {device for device in devices if is_in_share(device, MANIFEST, max_percent=10)}
    others = {device for device in devices if is_in_share(device, Digest.of(b"next"), max_percent=10)}
    assert 320 < len(chosen) < 480, "4 standard deviations around 400"
    assert len(chosen & others) < 90, "another tenth for another release: 40 expected"


def test_a_device_outside_the_share_or_before_the_opening_waits() -> None:
    check_rollout(Rollout(NOW, 100), device=DEVICE, manifest=MANIFEST, now_by_offline_roles=NOW)
    for rollout in (Rollout(None, 0), Rollout(NOW + timedelta(seconds=1), 100)):
        with pytest.raises(PolicyError) as caught:
            check_rollout(rollout, device=DEVICE, manifest=MANIFEST, now_by_offline_roles=NOW)
        assert caught.value.code == "rollout_not_yet"


def test_a_release_is_open_exactly_where_the_check_lets_it_pass() -> None:
    assert is_open(Rollout(NOW, 100), device=DEVICE, manifest=MANIFEST, now_by_offline_roles=NOW)
    assert not is_open(Rollout(NOW + timedelta(seconds=1), 100), device=DEVICE, manifest=MANIFEST, now_by_offline_roles=NOW)
    assert not is_open(Rollout(NOW, 0), device=DEVICE, manifest=MANIFEST, now_by_offline_roles=NOW)


BOOT = BootTime("boot", 100.0)


@given(st.sampled_from(["snapshot", "timestamp"]), st.integers(0, 10**7))
def test_whoever_holds_the_online_keys_cannot_open_a_release_early(role: str, seconds: int) -> None:
    claimed = TimeFloor(role, Digest.of(b"online keys"), NOW + timedelta(seconds=seconds), BOOT.boot, BOOT.seconds)
    time = TrustedTime([claimed], clock=lambda: NOW, uptime=lambda: BOOT)
    rollout = Rollout(NOW + timedelta(seconds=1), 100)
    assert time.now() >= NOW
    assert not is_open(rollout, device=DEVICE, manifest=MANIFEST, now_by_offline_roles=time.now_by_offline_roles())


@pytest.mark.parametrize("role", ["targets", "release-digits", "audit-digits"])
def test_a_device_whose_clock_stands_still_opens_a_release_by_what_offline_roles_prove(role: str) -> None:
    proven = TimeFloor(role, Digest.of(b"offline keys"), NOW, BOOT.boot, BOOT.seconds)
    time = TrustedTime([proven], clock=lambda: NOW - timedelta(days=20000), uptime=lambda: BOOT)
    assert is_open(Rollout(NOW, 100), device=DEVICE, manifest=MANIFEST, now_by_offline_roles=time.now_by_offline_roles())
