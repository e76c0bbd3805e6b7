"""How long something has been so, in days on which it was seen: what ``expired``, ``behind`` and ``withheld`` wait for.

A device sees its server now and then, and its clock may be wrong. So it counts days (UTC) on which it looked and found
the thing to hold, not the time between two readings of a clock. Pure; the counts are kept by ``install/state.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class DayCount:
    """``days`` on which it held since it last did not; ``last_day`` is the last of them, ``2026-01-31``."""

    days: int = 0
    last_day: str | None = None

    def exceeds(self, patience_days: int) -> bool:
        """True from the day after the last of ``patience_days`` days on which it may hold."""
        return self.days > patience_days


def counted(before: DayCount, *, holds: bool | None, now: datetime) -> DayCount:
    """The count after one more look.

    The rules:
        1. Nothing was learned (no server, no agreement on what is newest): the count stays, neither more nor forgotten.
        2. It does not hold: the count begins anew.
        3. It holds, on the day that was counted last: counted already, however often the device polls.
        4. It holds, on any other day: one more. Another, not a later one: a clock that once stood in the future must
           not stop the count until that future has come.

    Args:
        before: the count until now.
        holds: what this look found, or None if it found nothing out.
        now: trusted time, aware.
    """
    if holds is None:  # 1
        return before
    if not holds:  # 2
        return DayCount()
    today = now.astimezone(UTC).date().isoformat()
    if today == before.last_day:  # 3
        return before
    return DayCount(before.days + 1, today)  # 4
