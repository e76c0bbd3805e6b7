"""From the evidence of a run to what the page shows. The only file here that knows how ``Audit`` is built."""

from __future__ import annotations

from audits.evidence import Audit, SubjectEvidence
from audits.finding import Control, FamilyResult, Finding
from audits.report.read import count, flag, interval, number, objects, sequence, text
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
        families=(_instance(audit),),
    )


def _subject(subject: SubjectEvidence) -> SubjectView:
    return SubjectView(
        id=subject.id,
        digest=str(subject.digest),
        size_bytes=subject.size_bytes,
        verdict=subject.verdict.value,
        reasons=subject.reasons,
        is_original=subject.id == ORIGINAL,
    )


def _instance(audit: Audit) -> FamilyResult:
    """The one family of this suite, in the form that all families have."""
    return FamilyResult(
        family="inversion",
        findings={subject.id: (_finding(subject),) for subject in audit.subjects},
        controls=_controls(audit),
        power=audit.controls.smallest_caught,
        power_unit="share of a class's template that is training records",
        detail={subject.id: subject.detail for subject in audit.subjects},
        shared={},
    )


def _finding(subject: SubjectEvidence) -> Finding:
    means = [test for test in objects(subject.detail["tests"]) if test["statistic"] == "mean"]
    strongest = min(means, key=lambda test: number(test["p_value"]), default=None)
    return Finding(
        test="inversion.instance",
        p_value=subject.findings.p_value,
        p_adjusted=subject.findings.p_adjusted,
        statistic="mean_gap",
        estimate=None if strongest is None else number(strongest["estimate"]),
        interval=None if strongest is None else interval(strongest["interval"]),
        blind=() if subject.findings.blocked is None else (subject.findings.blocked,),
    )


def _controls(audit: Audit) -> tuple[Control, ...]:
    detail, required = audit.control_detail, audit.policy.controls.planted_required
    found = []
    for entry in objects(detail["planted"]):
        strength = number(entry["strength"])
        told = f"p = {number(entry['p_value']):.2g}"
        found.append(_planted(text(entry["name"]), flag(entry["caught"]), strength >= required, strength, told))
    for entry in objects(detail["planted_compressed"]):
        name = text(entry["name"])
        found.append(_planted(name, flag(entry["caught"]), True, float(name.split(":")[1]), f"p = {number(entry['p_value']):.2g}"))
    for entry in objects(detail["null"]):
        alarm, name = flag(entry["alarm"]), text(entry["name"])
        told = f"{name} {'raised an alarm' if alarm else 'stayed quiet'}, p = {number(entry['p_value']):.2g}"
        found.append(Control(name, planted=False, held=not alarm, required=True, strength=None, told=told))
    again = detail["relabellings"]
    alarms, trials, (low, high) = count(again["alarms"]), count(again["trials"]), interval(again["interval95"])
    told = f"{alarms} of {trials} fresh relabelled memberships raised an alarm ({low:.1%} to {high:.1%})"
    held = alarms <= audit.controls.relabelling_limit
    return (*found, Control("relabellings", planted=False, held=held, required=True, strength=None, told=told))


def _planted(name: str, caught: bool, required: bool, strength: float, told: str) -> Control:
    what = f"a planted leak of strength {strength:g} was {'caught' if caught else 'not caught'}, {told}"
    return Control(name, planted=True, held=caught, required=required, strength=strength, told=what)
