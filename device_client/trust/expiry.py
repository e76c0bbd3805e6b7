"""When a role has expired, and for how long an online one still counts where its owner allows that.

Only an import by hand gives a ``grace``: on the way to a device that no network reaches, timestamp and snapshot grow old through
nobody's fault. Offline roles never get any: their expiry is what bounds what a stolen server key can do. Pure.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from device_client.trust.rules import ONLINE_ROLES

NO_GRACE = timedelta(0)


def is_over(role: str, expires: datetime, *, now: datetime, grace: timedelta) -> bool:
    """Whether a role counts no more; like TUF, it does not at the very second of its expiry.

    Args:
        role: its name.
        expires: what it says.
        now: trusted time.
        grace: how much longer snapshot and timestamp count.
    """
    return now - (grace if role in ONLINE_ROLES else NO_GRACE) >= expires


def stretched_text(role: str, expires: datetime, *, now: datetime) -> str:
    """A sentence for people: how long ago a role expired that still counts, in whole days, rounded up."""
    days = -((expires - now) // timedelta(days=1))
    return f"{role} expired {days} day{'s' * (days != 1)} ago"
