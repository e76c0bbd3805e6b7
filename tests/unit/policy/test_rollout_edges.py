"""The share of a rollout is exact to the last of its 2**64 places."""

from __future__ import annotations

import pytest

from device_client.bundle import Digest
from device_client.policy import rollout
from device_client.policy.rollout import is_in_share

DEVICE, MANIFEST = Digest.of(b"device"), Digest.of(b"manifest")


@pytest.mark.parametrize(
    ("share", "percent", "inside"),
    [
        (0, 0, False),
        (0, 1, True),
        (2**62 - 1, 25, True),
        (2**62, 25, False),
        (2**63 - 1, 50, True),
        (2**63, 50, False),
        (2**64 - 1, 99, False),
        (2**64 - 1, 100, True),
    ],
)
def test_a_percentage_reaches_the_places_below_it_and_no_other(
    share: int, percent: int, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "rollout_share", lambda device, manifest: share)
    assert is_in_share(DEVICE, MANIFEST, max_percent=percent) is inside
