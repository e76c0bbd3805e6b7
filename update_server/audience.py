"""Which base URLs this server answers to: a request signed for another server is refused here.

Without it, a server could enrol its devices at another one, or pass their reports on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from device_client.errors import FormatError
from device_client.trust.times import format_time
from update_server.problem import ApiError

MAX_CLOCK_DIFFERENCE = timedelta(minutes=10)
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Audience:
    """The URLs from `server init --public-url`, and any loopback URL if the server listens there only."""

    public_urls: frozenset[str] = frozenset()
    loopback: bool = False

    def check(self, url: str, *, where: str) -> None:
        """Refuses a request that was signed for another server.

        Raises:
            ApiError: 422 ``audience``.
        """
        if url in self.public_urls or (self.loopback and is_loopback_url(url)):
            return
        raise ApiError(
            "the request was signed for another server",
            status=422,
            code="audience",
            where=where,
            expected=" | ".join(sorted(self.public_urls)) or "a loopback URL",
            actual=url[:200],
            hint="use the server's public URL on the device, or name it in `sealift server init --public-url`",
        )


def is_loopback_url(url: str) -> bool:
    """``http://`` with a loopback host and at most a port."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS and parts.username is None and not parts.path
            and not parts.query and not parts.fragment and parts.port != 0
        )  # fmt: skip
    except ValueError:
        return False


def check_public_url(url: str) -> str:
    """Returns ``url`` if it is a base URL as devices write it: scheme and authority, no trailing slash.

    Raises:
        FormatError: anything else.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None and not parts.query
    except ValueError:
        good = False
    if not good or url.endswith("/") or "#" in url or url != url.strip():
        raise FormatError("not a base URL", code="url_syntax", expected="https://HOST[:PORT][/PATH]", actual=url[:200])
    return url


def check_not_future(time: datetime, *, now: datetime, where: str) -> None:
    """Refuses what claims to come from the future.

    Raises:
        ApiError: 422 ``clock_skew`` when ``time`` is more than 10 minutes after ``now``.
    """
    if time - now > MAX_CLOCK_DIFFERENCE:
        raise _clock_skew(time, now, where)


def check_near(time: datetime, *, now: datetime, where: str) -> None:
    """Refuses what was not signed just now.

    Raises:
        ApiError: 422 ``clock_skew`` when ``time`` is more than 10 minutes from ``now``.
    """
    if abs(time - now) > MAX_CLOCK_DIFFERENCE:
        raise _clock_skew(time, now, where)


def _clock_skew(time: datetime, now: datetime, where: str) -> ApiError:
    return ApiError(
        "the signed time is too far from the server's clock",
        status=422,
        code="clock_skew",
        where=where,
        expected=f"within 10 minutes of {format_time(now)}",
        actual=format_time(time),
        hint="set the device's clock",
        members={"server_time": format_time(now)},
    )
