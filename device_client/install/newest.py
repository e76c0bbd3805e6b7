"""Step 4 of a poll: the channel, read whatever the server offers: which release is the newest, and the floor it brings.

A channel that is broken or not backed by both roles never keeps anything from being installed: its word is ignored, and an
alarm raised at the end of the poll. It is a signed target, so the server can only withhold it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from device_client.bundle.path import BundlePath
from device_client.errors import LimitError, SealiftError, StateError
from device_client.install.cycle import Cycle
from device_client.install.refresh import agree
from device_client.trust.agreement import AgreedRelease
from device_client.trust.channel import Channel, backed_floor, check_latest, parse_channel
from device_client.trust.trusted_metadata import TrustedMetadata

logger = logging.getLogger(__name__)


def read_newest(cycle: Cycle, trusted: TrustedMetadata) -> None:
    """Fills in ``found.channel`` and ``found.newest``; raises the floor if the newest release backs it.

    Raises:
        StateError: this disk cannot take it.
    """
    channel: Channel | None = None
    try:
        channel = read_channel(cycle, trusted)
        if channel is None:
            return
        latest = agree(cycle, trusted, BundlePath(cycle.model.line, cycle.model.model, channel.latest))
        check_latest(channel, latest)
    except StateError:
        raise
    except SealiftError as e:
        if channel is not None and e.code == "audit_entry_missing":
            cycle.found.channel, cycle.found.unaudited = channel, channel.latest
        else:
            logger.warning("the channel of %s is ignored: %s", cycle.model, e)
            cycle.found.channel_code = e.code
        return
    cycle.found.channel, cycle.found.newest = channel, latest
    raise_floor(cycle, [latest])


def raise_floor(cycle: Cycle, agreed: Iterable[AgreedRelease]) -> None:
    """Raises the floor to the channel's, if one of these releases backs it; a withdrawn one is nothing a device could go to."""
    if cycle.found.channel is None:
        return
    floor = backed_floor(cycle.found.channel, [release for release in agreed if release.audit.status == "active"])
    before = cycle.state.memory(cycle.model).floor
    if floor is not None and (before is None or floor > before):
        with cycle.state.transaction():
            cycle.state.raise_floor(cycle.model, floor)


def read_channel(cycle: Cycle, trusted: TrustedMetadata) -> Channel | None:
    """The channel document that the release role lists, from the store or its source; None if it lists none.

    Raises:
        TrustError, FormatError, LimitError, IntegrityError: role or document break a rule.
        TransportError: it does not arrive.
    """
    ref = trusted.channel_ref(cycle.model)
    if ref is None:
        return None
    if ref.length > cycle.limits.max_channel_bytes:
        raise LimitError("channel document too large", code="too_large", where=str(cycle.model), actual=ref.length)
    cycle.fetch([ref])
    cycle.found.channel_blobs = (ref.digest,)
    return parse_channel(cycle.store.read(ref.digest), limits=cycle.limits)
