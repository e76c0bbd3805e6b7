"""What goes into statements: the predicate from the evidence of one model, and the thin in-toto statement beside it.

Pure: values in, bytes out. ``attest``, ``waive`` and ``reissue`` sign them. Nothing private is in them: no record, no name of one,
no pixel.
"""

from __future__ import annotations

from audits.evidence import SUITE, Audit, SubjectEvidence
from audits.finding import FamilyResult, control_problems
from audits.verdict import TestRuling
from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.trust.attestation import (
    GRADIENTS,
    MAX_REASON_CHARS,
    STATEMENT_TYPE,
    AuditControls,
    AuditTest,
    PrivacyAudit,
)
from device_client.trust.custom import PolicyRef

TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
_MAX_TEXT = 1024


def privacy_audit(audit: Audit, subject: SubjectEvidence, *, evidence: Digest) -> PrivacyAudit:
    """Everything that the statement on one variant says.

    Args:
        audit: the whole run.
        subject: the variant.
        evidence: digest of ``audit.json``.
    """
    return PrivacyAudit(
        subject=subject.digest,
        subject_name=subject.id,
        verdict=subject.verdict.value,
        reason=None,
        tier=audit.policy.tier,
        policy=policy_ref(audit),
        suite=SUITE,
        threat_model=audit.policy.threat_model,
        gradient=subject.facts.gradient if subject.facts.gradient in GRADIENTS else "none",
        original=audit.original,
        tests=tuple(_test(audit, subject, item) for item in subject.ruling.tests),
        controls=tuple(_controls(family) for family in audit.families),
        not_tested=tuple((item.test, item.reason[:MAX_REASON_CHARS]) for item in subject.ruling.not_tested),
        evidence=evidence,
        reissue_of=None,
        audited_at=audit.audited_at,
        expires=audit.expires,
    )


def policy_ref(audit: Audit) -> PolicyRef:
    """The policy of a run as statements name it."""
    return PolicyRef(audit.policy.id, audit.policy.version, audit.policy.digest)


def thin_statement(audit: PrivacyAudit) -> bytes:
    """The same outcome as an in-toto test-result statement, for tools that know that predicate and not ours.

    INCONCLUSIVE is FAILED there, since it knows no word for it. Source: in-toto attestation framework, predicate ``test-result``
    v0.1: ``result``, ``configuration`` (here the policy and the evidence, by digest), and three lists of test names.
    """
    results = {test.id: "FAILED" if test.result == "INCONCLUSIVE" else test.result for test in audit.tests}
    configuration: list[dict[str, object]] = [
        {"name": f"{audit.policy.id} {audit.policy.version}", "digest": {"sha256": audit.policy.digest.hex}}
    ]
    if audit.evidence is not None:
        configuration.append({"name": "audit.json", "digest": {"sha256": audit.evidence.hex}})
    predicate = {
        "result": "FAILED" if audit.verdict == "INCONCLUSIVE" else audit.verdict,
        "configuration": configuration,
        "passedTests": [name for name, result in results.items() if result == "PASSED"],
        "warnedTests": [name for name, result in results.items() if result == "WARNED"],
        "failedTests": [name for name, result in results.items() if result == "FAILED"],
    }
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": audit.subject_name, "digest": {"sha256": audit.subject.hex}}],
            "predicateType": TEST_RESULT_TYPE,
            "predicate": predicate,
        }
    )


def _test(audit: Audit, subject: SubjectEvidence, ruling: TestRuling) -> AuditTest:
    finding = audit.finding(subject.id, ruling.test)
    owner = next(
        (
            family.family
            for family in audit.families
            if any(item.test == ruling.test for item in family.findings.get(subject.id, ()))
        ),
        "none",
    )
    if finding is None:
        return AuditTest(ruling.test, owner, ruling.result.value, "none", None, None, None, ruling.p_value)
    threshold = finding.threshold if finding.tolerated is None else finding.tolerated
    return AuditTest(
        id=ruling.test,
        family=owner,
        result=ruling.result.value,
        statistic=finding.statistic,
        estimate=finding.estimate,
        interval=finding.interval,
        threshold=threshold,
        p_value=ruling.p_value,
    )


def _controls(family: FamilyResult) -> AuditControls:
    planted = [control for control in family.controls if control.planted]
    null = [control for control in family.controls if not control.planted]
    return AuditControls(
        family=family.family,
        held=not control_problems(family.controls),
        planted=len(planted),
        planted_caught=sum(control.held for control in planted),
        null=len(null),
        null_alarms=sum(not control.held for control in null),
        power=family.power,
        power_unit=family.power_unit[:_MAX_TEXT],
    )
