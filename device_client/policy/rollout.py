"""Who is in a rollout: one function for devices, which enforce it, and for the server, which plans its waves by it.

The share of a device is fixed by its key and the manifest, so a release signed for 5 % reaches the same 5 % whatever
the server says, and another release reaches other devices (DESIGN 4).
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from device_client.bundle.digest import Digest
from device_client.errors import PolicyError
from device_client.trust.custom import Rollout
from device_client.trust.times import format_time

_WHOLE = 1 << 64


def rollout_share(device: Digest, manifest: Digest) -> int:
    """The device's place in the order of this release, in [0, 2**64).

    The first 8 bytes of SHA-256(device key fingerprint, manifest digest), both as 32 raw bytes, big-endian.
    """
    joined = bytes.fromhex(device.hex) + bytes.fromhex(manifest.hex)
    return int.from_bytes(hashlib.sha256(joined).digest()[:8], "big")


def is_in_share(device: Digest, manifest: Digest, *, max_percent: int) -> bool:
    """True if the device's share is below ``max_percent`` / 100; exact, in integers."""
    return rollout_share(device, manifest) * 100 < max_percent * _WHOLE


def check_rollout(rollout: Rollout, *, device: Digest, manifest: Digest, now_by_offline_roles: datetime) -> None:
    """The limits that the release role signed.

    Args:
        rollout: from the release entry.
        device: fingerprint of the device's key.
        manifest: digest of the manifest.
        now_by_offline_roles: ``TrustedTime.now_by_offline_roles()``, the clock and what offline roles prove. Not ``now()``:
            snapshot and timestamp prove time too, and whoever holds the server's keys could open every release early.

    Raises:
        PolicyError: ``rollout_not_yet``, which is an answer and not an alarm.
    """
    if rollout.not_before is not None and now_by_offline_roles < rollout.not_before:
        raise PolicyError(
            "the release is not open yet",
            code="rollout_not_yet",
            where="rollout.not_before",
            expected=format_time(rollout.not_before),
            actual=format_time(now_by_offline_roles),
            hint="nothing to do: the device asks again at its next poll",
        )
    if not is_in_share(device, manifest, max_percent=rollout.max_percent):
        raise PolicyError(
            "this device is not in the released share",
            code="rollout_not_yet",
            where="rollout.max_percent",
            expected=f"a share below {rollout.max_percent} %",
            actual=f"{rollout_share(device, manifest) * 100 / _WHOLE:.2f} %",
            hint="nothing to do: the device takes the release when its share grows",
        )


def is_open(rollout: Rollout, *, device: Digest, manifest: Digest, now_by_offline_roles: datetime) -> bool:
    """True where ``check_rollout`` raises nothing."""
    try:
        check_rollout(rollout, device=device, manifest=manifest, now_by_offline_roles=now_by_offline_roles)
    except PolicyError:
        return False
    return True
