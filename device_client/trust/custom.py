"""The two ``custom`` records of DESIGN 4 as closed schemas: what release and audit say about one manifest.

Verdicts are per variant, keyed by the digest of the bytes the runtime gets. An unknown field, verdict, tier or
schema is refused: a device that cannot read a condition must not act as if it were met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.errors import FormatError
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time, parse_time

SCHEMA = 1
VERDICTS = ("PASSED", "WARNED", "FAILED", "INCONCLUSIVE", "WAIVED")
TIERS = ("quick", "standard", "deep")
STATUSES = ("active", "withdrawn")


@dataclass(frozen=True)
class Rollout:
    """Limits that the release role signs and the device enforces; ``max_percent`` in [0, 100]."""

    not_before: datetime | None = None
    max_percent: int = 100


@dataclass(frozen=True)
class ReleaseCustom:
    """What the release role says about a manifest."""

    counter: Counter
    floor: Counter
    measurements: BlobRef
    rollout: Rollout

    def to_json(self) -> dict[str, object]:
        """The JSON form written into the TUF target entry."""
        rollout: dict[str, object] = {"max_percent": self.rollout.max_percent}
        if self.rollout.not_before is not None:
            rollout["not_before"] = format_time(self.rollout.not_before)
        return {
            "schema": SCHEMA,
            "counter": self.counter.to_json(),
            "floor": self.floor.to_json(),
            "measurements": self.measurements.to_json(),
            "rollout": rollout,
        }


@dataclass(frozen=True)
class PolicyRef:
    """The audit policy that was applied; ``digest`` is of its canonical bytes."""

    id: str
    version: int
    digest: Digest

    @classmethod
    def read(cls, fields: Fields) -> PolicyRef:
        """Reads ``{id, version, digest}``."""
        return cls(
            fields.text("id", max_chars=128),
            fields.integer("version", minimum=1, maximum=2**31 - 1),
            Digest.parse(fields.raw("digest"), where=f"{fields.where}.digest"),
        )

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"id": self.id, "version": self.version, "digest": str(self.digest)}


@dataclass(frozen=True)
class VariantVerdict:
    """The verdict on one variant's bytes, valid until ``expires``."""

    verdict: str
    tier: str
    expires: datetime
    attestation: BlobRef

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "verdict": self.verdict,
            "tier": self.tier,
            "expires": format_time(self.expires),
            "attestation": self.attestation.to_json(),
        }


@dataclass(frozen=True)
class AuditCustom:
    """What the audit role says about the same manifest."""

    seq: int
    counter: Counter
    floor: Counter
    status: str
    reason: str
    policy: PolicyRef
    suite: str
    threat_model: str
    variants: Mapping[Digest, VariantVerdict]

    def to_json(self) -> dict[str, object]:
        """The JSON form written into the TUF target entry."""
        return {
            "schema": SCHEMA,
            "seq": self.seq,
            "counter": self.counter.to_json(),
            "floor": self.floor.to_json(),
            "status": self.status,
            "reason": self.reason,
            "policy": self.policy.to_json(),
            "suite": self.suite,
            "threat_model": self.threat_model,
            "variants": {str(digest): verdict.to_json() for digest, verdict in self.variants.items()},
        }


def parse_release_custom(value: object, where: str) -> ReleaseCustom:
    """Reads the release record.

    Raises:
        FormatError: missing, unknown or ill-typed field, other schema, or a floor above the counter.
    """
    fields = Fields(value, where=where, known=("schema", "counter", "floor", "measurements", "rollout"))
    _check_schema(fields)
    counter, floor = _read_counters(fields)
    rollout = fields.fields("rollout", known=("not_before", "max_percent"))
    not_before = parse_time(rollout.raw("not_before"), f"{where}.rollout.not_before") if "not_before" in rollout else None
    return ReleaseCustom(
        counter=counter,
        floor=floor,
        measurements=BlobRef.from_json(fields.raw("measurements"), f"{where}.measurements"),
        rollout=Rollout(not_before, rollout.integer("max_percent", maximum=100)),
    )


def parse_audit_custom(value: object, where: str) -> AuditCustom:
    """Reads the audit record.

    Raises:
        FormatError: missing, unknown or ill-typed field, other schema, unknown verdict, tier or status.
    """
    known = ("schema", "seq", "counter", "floor", "status", "reason", "policy", "suite", "threat_model", "variants")
    fields = Fields(value, where=where, known=known)
    _check_schema(fields)
    counter, floor = _read_counters(fields)
    verdicts = fields.mapping("variants", _read_verdict, max_items=64)
    return AuditCustom(
        seq=fields.integer("seq", minimum=1, maximum=2**31 - 1),
        counter=counter,
        floor=floor,
        status=fields.text("status", choices=STATUSES),
        reason=fields.text("reason", max_chars=512),
        policy=PolicyRef.read(fields.fields("policy", known=("id", "version", "digest"))),
        suite=fields.text("suite", max_chars=128),
        threat_model=fields.text("threat_model", max_chars=64),
        variants=MappingProxyType({Digest.parse(key, where=f"{where}.variants"): verdict for key, verdict in verdicts.items()}),
    )


def _read_verdict(value: object, where: str) -> VariantVerdict:
    fields = Fields(value, where=where, known=("verdict", "tier", "expires", "attestation"))
    return VariantVerdict(
        verdict=fields.text("verdict", choices=VERDICTS),
        tier=fields.text("tier", choices=TIERS),
        expires=parse_time(fields.raw("expires"), f"{where}.expires"),
        attestation=BlobRef.from_json(fields.raw("attestation"), f"{where}.attestation"),
    )


def _check_schema(fields: Fields) -> None:
    if fields.integer("schema") != SCHEMA:
        raise FormatError(
            "unknown schema", code="schema_unknown", where=fields.where, expected=SCHEMA, actual=fields.integer("schema")
        )


def _read_counters(fields: Fields) -> tuple[Counter, Counter]:
    counter = Counter.from_json(fields.raw("counter"), where=f"{fields.where}.counter")
    floor = Counter.from_json(fields.raw("floor"), where=f"{fields.where}.floor")
    if floor > counter:
        raise FormatError(
            "floor above the entry's own counter",
            code="floor_above_counter",
            where=fields.where,
            expected=f"at most {counter}",
            actual=floor,
        )
    return counter, floor
