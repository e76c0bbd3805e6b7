"""Agreed releases as the trust package makes them, for rules that only read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from device_client.bundle import BundlePath, Counter, Digest
from device_client.trust import agreement
from device_client.trust.agreement import AgreedRelease
from device_client.trust.custom import AuditCustom, PolicyRef, ReleaseCustom, Rollout, VariantVerdict
from device_client.trust.refs import BlobRef

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MODEL = Digest.of(b"model")


def verdict(name: str = "PASSED", *, tier: str = "quick", hours: float = 1.0) -> VariantVerdict:
    return VariantVerdict(name, tier, NOW + timedelta(hours=hours), BlobRef.of(b"attestation"))


def audit(
    *,
    seq: int = 1,
    counter: int = 1,
    status: str = "active",
    policy: str = "house",
    policy_version: int = 1,
    variants: dict[Digest, VariantVerdict] | None = None,
) -> AuditCustom:
    return AuditCustom(
        seq=seq,
        counter=Counter(0, counter),
        floor=Counter(0, 0),
        status=status,
        reason="",
        policy=PolicyRef(policy, policy_version, Digest.of(b"policy")),
        suite="s",
        threat_model="white_box",
        variants={MODEL: verdict()} if variants is None else variants,
    )


def agreed(
    *,
    version: str = "1.0.0",
    counter: int = 1,
    seq: int = 1,
    manifest: bytes = b"manifest",
    status: str = "active",
    variants: dict[Digest, VariantVerdict] | None = None,
    policy: str = "house",
    rollout: Rollout | None = None,
) -> AgreedRelease:
    release = ReleaseCustom(Counter(0, counter), Counter(0, 0), BlobRef.of(b"m"), rollout or Rollout())
    entry = audit(seq=seq, counter=counter, status=status, variants=variants, policy=policy)
    path = BundlePath("digits", "ocr", version)
    return AgreedRelease(path, BlobRef.of(manifest), release, entry, NOW, agreement._PROOF)
