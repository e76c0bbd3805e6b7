"""One audit run: every family that the policy asks for, on the same models and records; then a ruling on each model.

    result = run_audit(targets, original, data, policy=policy, now=now)

1. records and models are checked against each other; 2. families run in the registry's order (``families``), or, where the policy
stops early, until no verdict can change; 3. what was found outside the policy's threat model does not count; 4. ``verdict.rule``
for each model.

Pure but for the time that it takes: no file is written here.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import version

import numpy as np

from audits.compressor import Compressor
from audits.data import AuditData, Floats
from audits.evidence import Audit, SubjectEvidence
from audits.families import Family, excluded
from audits.family import Bench, Report
from audits.finding import FamilyResult, Finding, power_of
from audits.fit import InputRange, balanced_pools, check_fit, class_count, input_range
from audits.instance_gap import Pools
from audits.policy import Policy
from audits.random_operators import find_random_operators
from audits.targets import BundleTargets, Subject
from audits.trainer import Trainer
from audits.verdict import ModelFacts, certain_failures, gradient_of, rule

_TOOLS = ("torch", "onnxruntime", "onnx", "numpy")


@dataclass(frozen=True)
class PrivateImages:
    """Images of a run, private until blurred; all in the model's input space.

    Attributes:
        class_means, heldouts: (C, ...), mean of the drawn records, and one held-out record of each class.
        attacks: subject id and name of an attack to (C, ...), everything that the families made.
        start: (...), where attacks with the file began; None where none ran.
        records: (...), records that the families name, by that name.
    """

    class_means: Floats
    heldouts: Floats
    attacks: dict[tuple[str, str], Floats]
    start: Floats | None
    records: dict[str, Floats]


@dataclass(frozen=True)
class RunResult:
    """What a run gives: the evidence, without the digest of the image file yet, and the images."""

    audit: Audit
    images: PrivateImages


def run_audit(
    targets: BundleTargets,
    original: Subject,
    data: AuditData,
    *,
    policy: Policy,
    now: datetime,
    compressor: Compressor | None = None,
    trainer: Trainer | None = None,
    report: Report = lambda _: None,
) -> RunResult:
    """Audits the original and every variant.

    Args:
        targets: the variants of a verified bundle.
        original: the uncompressed model.
        data: records with membership.
        policy: everything that decides.
        now: time of the audit; the verdicts expire ``expiry_days`` later.
        compressor: if given, planted controls are compressed like the variants and must still be caught.
        trainer: if given, trains shadows and twins as the audited model was trained.
        report: called with one line for each step.

    Raises:
        UsageError: the records do not fit the original's input.
    """
    began = time.monotonic()
    check_fit(original, data)
    bounds = input_range(original, data)
    pools = balanced_pools(data, class_count(original, data), policy)
    bench = Bench(original, targets.variants, data, policy, compressor, trainer, report)
    families = _run_families(bench)
    audit = Audit(
        policy=policy,
        tools={"python": platform.python_version(), **{name: version(name) for name in _TOOLS}},
        data=_describe_data(data, pools, bounds),
        bundle={"manifest": str(targets.manifest), "path": targets.path},
        original=original.model.digest,
        subjects=tuple(_judge(subject, families, policy) for subject in bench.subjects),
        families=families,
        images={},
        audited_at=now,
        expires=now + timedelta(days=policy.expiry_days),
        duration_s=round(time.monotonic() - began, 3),
    )
    return RunResult(audit, _images(data, pools, families))


def _run_families(bench: Bench) -> tuple[FamilyResult, ...]:
    """All that the policy asks for, in order; it may let the run stop where no family that is left could change a verdict."""
    policy, made = bench.policy, list[FamilyResult]()
    for family in policy.asked:
        certain = certain_failures(made, policy) if policy.decision.stop_early else {}
        if bench.subjects and all(subject.id in certain for subject in bench.subjects):
            bench.report(f"stopping early: every model FAILED; {family.name} is left out")
            made.append(_left_out(family, certain, policy))
        else:
            made.append(_counting(family, family.run(bench), policy))
    return tuple(made)


def _left_out(family: Family, certain: Mapping[str, str], policy: Policy) -> FamilyResult:
    """A family that did not run, for nothing that it finds could change a verdict."""

    def finding(test: str, subject: str) -> Finding:
        return Finding(test, 1.0, 1.0, "none", not_run=f"stopped early: the model had FAILED {certain[subject]}")

    tests = [kind.id for kind in family.tests if policy.runs(kind.id)]
    findings = {subject: tuple(finding(test, subject) for test in tests) for subject in certain}
    return FamilyResult(family.name, findings, (), None, "", {subject: {} for subject in certain}, {})


def _counting(family: Family, result: FamilyResult, policy: Policy) -> FamilyResult:
    """What a family gave, without tests outside the threat model, and with the power that its controls show."""
    strangers = {item.test for items in result.findings.values() for item in items} - {kind.id for kind in family.tests}
    if result.family != family.name or strangers:
        raise ValueError(f"{family.name} gave what it is not registered for: {result.family}, {sorted(strangers)}")
    findings = {subject: tuple(_plain(item, policy) for item in items) for subject, items in result.findings.items()}
    controls = tuple(
        replace(item, held=bool(item.held), strength=None if item.strength is None else float(item.strength))
        for item in result.controls
    )
    return replace(result, findings=findings, controls=controls, power=power_of(controls))


def _plain(finding: Finding, policy: Policy) -> Finding:
    """The finding in plain floats, as ``audit.json`` gives them back."""
    reason = excluded(finding.test, threat_model=policy.threat_model)
    if reason is not None and finding.ran:
        return Finding(finding.test, 1.0, 1.0, finding.statistic, not_run=reason)
    return replace(
        finding,
        p_value=float(finding.p_value),
        p_adjusted=float(finding.p_adjusted),
        estimate=_float(finding.estimate),
        interval=None if finding.interval is None else (float(finding.interval[0]), float(finding.interval[1])),
        tolerated=_float(finding.tolerated),
        threshold=_float(finding.threshold),
    )


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _judge(subject: Subject, families: tuple[FamilyResult, ...], policy: Policy) -> SubjectEvidence:
    facts = ModelFacts(gradient_of(subject.id, families), find_random_operators(subject.model.data))
    ruling = rule(subject.id, facts, families, policy)
    return SubjectEvidence(subject.id, subject.model.digest, len(subject.model.data), facts, ruling)


def _images(data: AuditData, pools: Pools, families: tuple[FamilyResult, ...]) -> PrivateImages:
    shape = data.x.shape[1:]
    means = [
        data.x[np.concatenate([pool.members, pool.heldouts])].mean(axis=0) if pool.size else np.zeros(shape)
        for pool in pools.classes
    ]
    held = [data.x[pool.heldouts[0]] if pool.size else np.zeros(shape) for pool in pools.classes]
    made = {key: images for family in families for key, images in family.images.items()}
    start = next((images[0] for (_, way), images in made.items() if way == "start"), None)
    records = {name: record for family in families for name, record in family.records.items()}
    return PrivateImages(np.asarray(means, dtype=np.float32), np.asarray(held, dtype=np.float32), made, start, records)


def _describe_data(data: AuditData, pools: Pools, bounds: InputRange) -> dict[str, object]:
    return {
        "digest": str(data.digest),
        "records": len(data.x),
        "members": int(data.member.sum()),
        "shape": [int(size) for size in data.x.shape[1:]],
        "classes": len(pools.classes),
        "drawn_per_side": [pool.size for pool in pools.classes],
        "thin": [list(item) for item in pools.thin],
        "input_range": {"low": bounds.low, "high": bounds.high, "source": bounds.source},
        "outside_range": int(((data.x < bounds.low) | (data.x > bounds.high)).sum()),
    }
