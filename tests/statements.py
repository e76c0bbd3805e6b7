"""Statements for tests that are not about audits: a good one, with any field changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from device_client.bundle.digest import Digest
from device_client.trust.attestation import AuditControls, AuditTest, PrivacyAudit
from device_client.trust.custom import PolicyRef

TEST = AuditTest(
    id="inversion.instance", family="instance", result="PASSED", statistic="mean_gap", estimate=0.01, interval=(0.0, 0.02),
    threshold=0.05, p_value=0.4,
)  # fmt: skip
CONTROLS = AuditControls(
    family="instance", held=True, planted=6, planted_caught=4, null=5, null_alarms=0, power=0.2, power_unit="share of a record"
)
_BEGIN = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


def passed(subject: Digest, name: str, **changes: Any) -> PrivacyAudit:
    """PASSED on one variant; give ``audited_at`` and ``expires`` where a clock looks at it."""
    audit = PrivacyAudit(
        subject=subject,
        subject_name=name,
        verdict="PASSED",
        reason=None,
        tier="quick",
        policy=PolicyRef("test", 1, Digest.of(b"policy")),
        suite="test",
        threat_model="white_box",
        gradient="exact",
        original=None,
        tests=(TEST,),
        controls=(CONTROLS,),
        not_tested=(("membership.lira", "the policy does not ask for it"),),
        evidence=Digest.of(b"evidence"),
        reissue_of=None,
        audited_at=_BEGIN,
        expires=_BEGIN + timedelta(days=20),
    )
    return replace(audit, **changes)


def waived(subject: Digest, name: str, **changes: Any) -> PrivacyAudit:
    """WAIVED on one variant."""
    audit = passed(
        subject, name, verdict="WAIVED", reason="no personal data", gradient="none", tests=(), controls=(), evidence=None,
        not_tested=(("inversion.instance", "waived"),),
    )  # fmt: skip
    return replace(audit, **changes)
