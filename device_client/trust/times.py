"""Wire times: UTC to the second, in the syntax of TUF's ``expires``."""

from __future__ import annotations

from datetime import UTC, datetime

from device_client.errors import FormatError

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def utc_now() -> datetime:
    """The wall clock, aware, cut to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def format_time(value: datetime) -> str:
    """``2026-01-31T12:00:00Z``; ``value`` must be aware."""
    return value.astimezone(UTC).strftime(_FORMAT)


def parse_time(value: object, where: str) -> datetime:
    """Reads exactly the form that ``format_time`` writes.

    Raises:
        FormatError: any other syntax, so that two readers cannot disagree about a zone or a fraction.
    """
    try:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004
        parsed = datetime.strptime(value, _FORMAT).replace(tzinfo=UTC)
        if parsed.strftime(_FORMAT) != value:
            raise ValueError
    except ValueError as e:
        raise FormatError(
            "not a time", code="time_syntax", where=where, expected="YYYY-MM-DDThh:mm:ssZ", actual=repr(value)[:60]
        ) from e
    return parsed
