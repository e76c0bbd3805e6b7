"""The share of a device is fixed, even, exact, and never smaller for a larger percentage."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import Digest
from device_client.errors import PolicyError
from device_client.policy.rollout import check_rollout, is_in_share, rollout_share
from device_client.trust.custom import Rollout
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
    check_rollout(Rollout(NOW, 100), device=DEVICE, manifest=MANIFEST, now=NOW)
    for rollout in (Rollout(None, 0), Rollout(NOW + timedelta(seconds=1), 100)):
        with pytest.raises(PolicyError) as caught:
            check_rollout(rollout, device=DEVICE, manifest=MANIFEST, now=NOW)
        assert caught.value.code == "rollout_not_yet"
