"""Does the newest release run here, and if not, does the server offer it? What ``behind`` and ``withheld`` count.

The newest release is the one that the release role's channel document names, once both roles agree on it. The server
cannot forge that; it can only keep silent, which ``expired`` notices. Pure; ``patience.py`` counts the days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.policy.rollout import is_open
from device_client.trust.agreement import AgreedRelease


@dataclass(frozen=True)
class Lag:
    """What one poll found; None where it found nothing out, so that ``counted`` leaves the count as it is."""

    behind: bool | None
    withheld: bool | None


_UNKNOWN = Lag(None, None)
_NONE = Lag(behind=False, withheld=False)


def find_lag(
    newest: AgreedRelease | None,
    *,
    device: Digest,
    running: Counter | None,
    offered: str | None,
    activated: bool,
    now_by_offline_roles: datetime,
) -> Lag:
    """Compares what runs after a poll with the newest release.

    The rules:
        1. What runs is the newest release, or has a higher counter: neither behind nor withheld.
        2. No newest release is known (no channel, not agreed, not audited yet), or it is withdrawn, or not open to this
           device: nothing is learned from it. What was counted stays, so that a canary for others does not hide what is
           kept from this device; but with a newly activated bundle the counts begin anew.
        3. Otherwise the device is behind, whatever the cause. The release is withheld if the server did not name it, be it
           that it named another, none, or did not answer while it went on serving metadata.

    Args:
        newest: what both roles agree on under the channel's ``latest``, or None.
        device: fingerprint of the device's key.
        running: counter of the active bundle, or None.
        offered: the version that the server named in this poll, or None.
        activated: whether this poll activated a bundle.
        now_by_offline_roles: ``TrustedTime.now_by_offline_roles()``.
    """
    if newest is not None and running is not None and newest.release.counter <= running:  # 1
        return _NONE
    if (
        newest is None
        or newest.audit.status != "active"
        or not is_open(
            newest.release.rollout, device=device, manifest=newest.manifest.digest, now_by_offline_roles=now_by_offline_roles
        )
    ):  # 2
        return _NONE if activated else _UNKNOWN
    return Lag(behind=True, withheld=offered != newest.path.version)  # 3
