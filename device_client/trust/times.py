"""Wire times: UTC to the second, in the syntax of TUF's ``expires``."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from device_client.errors import FormatError

_FORM = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z\Z")


def utc_now() -> datetime:
    """The wall clock, aware, cut to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def format_time(value: datetime) -> str:
    """``2026-01-31T12:00:00Z``; ``value`` must be aware."""
    return f"{value.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat()}Z"


def parse_time(value: object, where: str) -> datetime:
    """Reads exactly the form that ``format_time`` writes.

    Raises:
        FormatError: any other syntax, so that two readers cannot disagree about a zone or a fraction.
    """
    found = _FORM.match(value) if isinstance(value, str) else None
    try:
        if found is None:
            raise ValueError
        year, month, day, hour, minute, second = map(int, found.groups())
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as e:
        raise FormatError(
            "not a time", code="time_syntax", where=where, expected="YYYY-MM-DDThh:mm:ssZ", actual=repr(value)[:60]
        ) from e
