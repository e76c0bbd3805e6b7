"""From the evidence of a run to what the page shows. The only file here that knows how ``Audit`` is built."""

from __future__ import annotations

from audits.evidence import Audit, SubjectEvidence
from audits.report.read import count, number, sequence, text
from audits.report.view import DataView, PageView, PolicyView, SubjectView
from audits.targets import ORIGINAL
from device_client.bundle.digest import Digest


def view_of(audit: Audit) -> PageView:
    """The view of a run; a detail that is not of its form raises TypeError, ValueError or KeyError."""
    policy, data = audit.policy, audit.data
    drawn = [count(size) for size in sequence(data["drawn_per_side"], most=100_000)]
    return PageView(
        bundle=audit.bundle["path"],
        manifest=audit.bundle["manifest"],
        evidence=str(Digest.of(audit.to_bytes())),
        audited_at=audit.audited_at,
        expires=audit.expires,
        policy=PolicyView(
            id=policy.id,
            version=policy.version,
            tier=policy.tier,
            threat_model=policy.threat_model,
            digest=str(policy.digest),
            seed=policy.seed,
            alpha=policy.decision.alpha,
            confidence=policy.decision.confidence,
            gap_delta=policy.decision.delta_warning,
        ),
        data=DataView(
            digest=text(data["digest"]),
            records=count(data["records"]),
            members=count(data["members"]),
            classes=count(data["classes"]),
            drawn_least=min(drawn, default=0),
            drawn_most=max(drawn, default=0),
            low=number(data["input_range"]["low"]),
            high=number(data["input_range"]["high"]),
        ),
        tools=audit.tools,
        subjects=tuple(_subject(subject) for subject in audit.subjects),
        families=audit.families,
    )


def _subject(subject: SubjectEvidence) -> SubjectView:
    return SubjectView(
        id=subject.id,
        digest=str(subject.digest),
        size_bytes=subject.size_bytes,
        verdict=subject.verdict.value,
        reasons=subject.reasons,
        is_original=subject.id == ORIGINAL,
        results={item.test: item.result.value for item in subject.ruling.tests},
        not_tested=tuple((item.test, item.reason) for item in subject.ruling.not_tested),
        gradient=subject.facts.gradient,
        random_operators=subject.facts.random_operators,
    )
