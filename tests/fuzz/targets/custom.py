"""``parse_release_custom`` and ``parse_audit_custom`` on one document: at most one takes it, and then it reads back equal."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.custom import (
    STATUSES,
    TIERS,
    VERDICTS,
    AuditCustom,
    PolicyRef,
    ReleaseCustom,
    Rollout,
    VariantVerdict,
    parse_audit_custom,
    parse_release_custom,
)
from device_client.trust.refs import BlobRef
from tests.fuzz.json_mutator import mutate_json
from tests.fuzz.target import accepted, check_strict, promise

MAX_BYTES = 16_384
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
WORDS = (
    b'"schema"', b'"seq"', b'"counter"', b'"floor"', b'"status"', b'"reason"', b'"policy"', b'"suite"', b'"threat_model"',
    b'"variants"', b'"measurements"', b'"rollout"', b'"not_before"', b'"max_percent"', b'"verdict"', b'"tier"', b'"expires"',
    b'"attestation"', b'"digest"', b'"length"', b"sha256:", b"withdrawn", b"active", b"2026-06-01T12:00:00Z",
    *(word.encode() for word in (*VERDICTS, *TIERS)),
)  # fmt: skip


def fuzz_one(data: bytes) -> None:
    """See the module."""
    value = check_strict(data, max_bytes=DEFAULT_LIMITS.max_custom_bytes)
    if value is None:
        return
    release = accepted(lambda: parse_release_custom(value, "custom"))
    audit = accepted(lambda: parse_audit_custom(value, "custom"))
    promise(release is None or audit is None, "one record with two meanings")
    if release is not None:
        promise(parse_release_custom(release.to_json(), "again") == release, "written back, it is another record")
        promise(release.floor <= release.counter, "a floor above the counter")
        promise(0 <= release.rollout.max_percent <= 100, "a share beyond everyone")
    if audit is not None:
        promise(parse_audit_custom(audit.to_json(), "again") == audit, "written back, it is another record")
        promise(audit.floor <= audit.counter, "a floor above the counter")
        promise(audit.status in STATUSES, "an unknown status")
        promise({found.verdict for found in audit.variants.values()} <= set(VERDICTS), "an unknown verdict")


def audit_record(status: str = "active", verdicts: tuple[str, ...] = ("PASSED",)) -> AuditCustom:
    """A good audit record."""
    variants = {
        Digest.of(verdict.encode()): VariantVerdict(verdict, TIERS[index % 3], NOW, BlobRef.of(b"attestation"))
        for index, verdict in enumerate(verdicts)
    }
    policy = PolicyRef("clinic", 3, Digest.of(b"policy"))
    return AuditCustom(4, Counter(0, 7), Counter(0, 2), status, "because", policy, "suite 1", "white_box", variants)


def seeds() -> Iterator[bytes]:
    """Good records of both kinds, and what they are not."""
    release = ReleaseCustom(Counter(0, 7), Counter(0, 2), BlobRef.of(b"measurements"), Rollout(NOW, 25))
    yield canonical_json(release.to_json())
    yield canonical_json(ReleaseCustom(Counter(1, 0), Counter(0, 0), BlobRef.of(b"m"), Rollout()).to_json())
    for status, verdicts in (("active", VERDICTS), ("withdrawn", ()), ("active", ("PASSED",))):
        yield canonical_json(audit_record(status, verdicts).to_json())
    yield canonical_json({**release.to_json(), **audit_record().to_json()})
    for change in (
        {"schema": 2},
        {"schema": True},
        {"seq": 0},
        {"floor": [9, 9]},
        {"status": "Active"},
        {"variants": {"md5:0": {}}},
    ):
        yield canonical_json({**audit_record().to_json(), **change})
    for rollout in ({"max_percent": 101}, {"max_percent": 50, "not_before": "2026-06-01"}, {"max_percent": 1.0}, {}):
        yield canonical_json({**release.to_json(), "rollout": rollout})


def mutate(data: bytes, rng: random.Random) -> bytes:
    """JSON changes."""
    return mutate_json(data, rng)
