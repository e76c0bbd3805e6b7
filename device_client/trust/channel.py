"""The channel document: which release is the newest, so that a device notices an update being kept from it.

It authorises no bytes, and the release role writes it alone. So its word counts only as far as the audit role has signed for
it too: ``check_latest`` and ``backed_floor`` are those rules, pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from device_client.bundle.counter import Counter
from device_client.bundle.fields import Fields
from device_client.bundle.path import check_name
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, TrustError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.agreement import AgreedRelease

SCHEMA = 1


@dataclass(frozen=True)
class Channel:
    """``latest`` is a version of the model; ``floor`` is at or below ``counter``."""

    latest: str
    counter: Counter
    floor: Counter

    def to_bytes(self) -> bytes:
        """The bytes that the release role lists as a target."""
        return canonical_json(
            {"schema": SCHEMA, "latest": self.latest, "counter": self.counter.to_json(), "floor": self.floor.to_json()}
        )


def parse_channel(data: bytes, *, where: str = "channel", limits: Limits = DEFAULT_LIMITS) -> Channel:
    """Reads a channel document; a closed schema.

    Raises:
        FormatError: syntax, unknown field or schema, or a floor above the counter.
        LimitError: longer than ``max_channel_bytes``.
    """
    value = parse_strict(data, max_bytes=limits.max_channel_bytes, where=where, limits=limits)
    fields = Fields(value, where=where, known=("schema", "latest", "counter", "floor"))
    if fields.integer("schema") != SCHEMA:
        raise FormatError("unknown schema", code="schema_unknown", where=where, expected=SCHEMA, actual=fields.integer("schema"))
    channel = Channel(
        latest=check_name(fields.raw("latest"), what="version", where=f"{where}.latest"),
        counter=Counter.from_json(fields.raw("counter"), where=f"{where}.counter"),
        floor=Counter.from_json(fields.raw("floor"), where=f"{where}.floor"),
    )
    if channel.floor > channel.counter:
        raise FormatError("floor above the channel's counter", code="floor_above_counter", where=where)
    return channel


def check_latest(channel: Channel, latest: AgreedRelease) -> None:
    """The release that the channel calls the newest carries the counter that the channel says.

    Args:
        channel: the document.
        latest: what both roles agree on for ``channel.latest``.

    Raises:
        TrustError: ``channel_mismatch``.
    """
    if (latest.path.version, latest.release.counter) != (channel.latest, channel.counter):
        raise TrustError(
            "the channel and the release it names disagree",
            code="channel_mismatch",
            where=latest.path.of_model.channel_target,
            expected=f"{channel.latest} with counter {channel.counter}",
            actual=f"{latest.path.version} with counter {latest.release.counter}",
            hint="ask the release team to sign the channel again; its floor is ignored until then",
        )


def backed_floor(channel: Channel, agreed: Iterable[AgreedRelease]) -> Counter | None:
    """The channel's floor, once a release that both roles agree on for every device is at or above it; None until then.

    The release team announces a floor when it signs; until the audit team has signed a release that devices could go to, it
    would only strand them.
    """
    full = (release.release.counter for release in agreed if release.release.rollout.max_percent == 100)
    return channel.floor if any(counter >= channel.floor for counter in full) else None
