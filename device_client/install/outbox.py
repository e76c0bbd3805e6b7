"""Which waiting reports may go because later ones say the same: the outbox of a device that nobody listens to stays bounded. Pure.

Terminal reports are those about how something ended: ``installed``, ``rolled_back``, ``refused``, ``failed``, ``alarm``. The others
(``activated``, ``deferred``, ``current``, ``none``, ``awaiting_audit``, ``withheld``) are about the way there, and only the newest
of a kind matters. The rules:
    1. Up to ``MAX_WAITING`` reports all are kept.
    2. Beyond it, of reports that are not terminal only the newest for each model and event is kept.
    3. Beyond ``MAX_TERMINAL``, of ``refused``, ``failed`` and ``alarm`` only the newest for each model, event and code: a hostile
       server can name a new version at each poll and never take a report, and must not fill the disk by it.
    4. ``installed`` and ``rolled_back`` are never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from device_client.bundle.strict_json import parse_strict
from device_client.errors import VerificationError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.dsse import read_unverified_payload

PAYLOAD_TYPE = "application/vnd.sealift.report.v1+json"
MAX_WAITING = 128
MAX_TERMINAL = 1024
TERMINAL = frozenset({"installed", "rolled_back", "refused", "failed", "alarm"})
KEPT_FOR_EVER = frozenset({"installed", "rolled_back"})


def superfluous(waiting: list[tuple[int, bytes]]) -> list[int]:
    """Counters of the reports that may be dropped.

    Args:
        waiting: counter and envelope of each report, oldest first.
    """
    if len(waiting) <= MAX_WAITING:
        return []
    told = [(counter, *_about(envelope)) for counter, envelope in waiting]
    dropped = set(_repeated((counter, (model, event)) for counter, model, event, _ in told if event not in TERMINAL))
    if len(waiting) - len(dropped) > MAX_TERMINAL:
        causes = ((counter, (model, event, code)) for counter, model, event, code in told if event in TERMINAL - KEPT_FOR_EVER)
        dropped |= set(_repeated(causes))
    return sorted(dropped)


def _repeated(reports: Iterable[tuple[int, tuple[object, ...]]]) -> Iterator[int]:
    newest: dict[tuple[object, ...], int] = {}
    for counter, subject in reports:
        if subject in newest:
            yield newest[subject]
        newest[subject] = counter


def _about(envelope: bytes) -> tuple[object, str, object]:
    """Model, event and code; a report that cannot be read counts as one to keep."""
    limit = DEFAULT_LIMITS.max_report_bytes
    try:
        payload, _ = read_unverified_payload(envelope, payload_type=PAYLOAD_TYPE, max_bytes=limit, where="outbox")
        value = parse_strict(payload, max_bytes=limit, where="outbox")
    except VerificationError:
        return None, "installed", None
    if not isinstance(value, dict):
        return None, "installed", None
    return value.get("model"), str(value.get("event")), value.get("code")
