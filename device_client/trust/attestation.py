"""Privacy-audit attestations: an in-toto Statement v1 in a DSSE envelope, one for each variant.

The subject is the digest of the bytes the runtime gets. `audit attest` and `audit waive` build it; `audit verify`, `sign` and the
server's admission verify it through this one function (``attestation_set`` for all variants of a bundle). Predicate fields are
documented in ``docs/audit-method.md``. The schema is closed in every part, and what a statement says must agree with itself: its
verdict is the worst of its tests' results, and a test whose family's controls did not hold is no pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from securesystemslib.signer import Key

from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, TrustError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.custom import TIERS, VERDICTS, PolicyRef
from device_client.trust.dsse import verify_envelope
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time, parse_time

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:sealift:predicate:privacy-audit:v2"
THREAT_MODELS = ("white_box", "sealed_api", "label_only")
GRADIENTS = ("exact", "straight_through", "none")
WAIVED = "WAIVED"
RESULTS = ("FAILED", "INCONCLUSIVE", "WARNED", "PASSED")  # worst first; a verdict is the worst of its tests' results
MAX_REASON_CHARS = 512
_CLOCK_SKEW = timedelta(minutes=10)
_PREDICATE_FIELDS = (
    "verdict", "reason", "tier", "policy", "suite", "threat_model", "gradient", "original", "tests", "controls", "not_tested",
    "evidence", "reissue_of", "audited_at", "expires",
)  # fmt: skip
_TEST_FIELDS = ("id", "family", "result", "statistic", "estimate", "interval", "threshold", "p_value")
_CONTROL_FIELDS = ("family", "held", "planted", "planted_caught", "null", "null_alarms", "power", "power_unit")


@dataclass(frozen=True)
class AuditTest:
    """The result of one test.

    Attributes:
        result: of ``RESULTS``.
        statistic: what ``estimate`` and ``interval`` are of.
        threshold: the bound on it, or the value at which the null distribution fails the model; None where there is none.
        p_value: over the whole run.
    """

    id: str
    family: str
    result: str
    statistic: str
    estimate: float | None
    interval: tuple[float, float] | None
    threshold: float | None
    p_value: float

    def to_json(self) -> dict[str, object]:
        """The entry of ``tests``."""
        return {
            "id": self.id,
            "family": self.family,
            "result": self.result,
            "statistic": self.statistic,
            "estimate": self.estimate,
            "interval": None if self.interval is None else list(self.interval),
            "threshold": self.threshold,
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class AuditControls:
    """The controls of one family, and the power that they showed.

    Attributes:
        held: all that were required behaved.
        power: smallest planted leak that was caught with all larger ones; None if none was.
        power_unit: what it is measured in, in plain words.
    """

    family: str
    held: bool
    planted: int
    planted_caught: int
    null: int
    null_alarms: int
    power: float | None
    power_unit: str

    def to_json(self) -> dict[str, object]:
        """The entry of ``controls``."""
        return {name: getattr(self, name) for name in _CONTROL_FIELDS}


@dataclass(frozen=True)
class PrivacyAudit:
    """What one statement says about one variant.

    Attributes:
        subject: digest of the bytes that were loaded and attacked.
        subject_name: id of the variant.
        reason: why the audit was waived; None for every other verdict.
        gradient: what white-box attacks had: ``exact``, ``straight_through`` or ``none``.
        original: digest of the uncompressed model that it was compared with, if there was one.
        not_tested: ids of tests that gave nothing, each with the reason.
        evidence: digest of ``audit.json``; None for a waiver.
        reissue_of: digest of the statement whose verdict this one carries over to a new release of the same bytes.
    """

    subject: Digest
    subject_name: str
    verdict: str
    reason: str | None
    tier: str
    policy: PolicyRef
    suite: str
    threat_model: str
    gradient: str
    original: Digest | None
    tests: tuple[AuditTest, ...]
    controls: tuple[AuditControls, ...]
    not_tested: tuple[tuple[str, str], ...]
    evidence: Digest | None
    reissue_of: Digest | None
    audited_at: datetime
    expires: datetime


@dataclass(frozen=True)
class VerifiedAudit:
    """A statement whose signatures, subject, times and agreement with itself were checked by ``verify_attestation``."""

    audit: PrivacyAudit
    envelope: BlobRef
    keyids: tuple[str, ...]


def build_statement(audit: PrivacyAudit) -> bytes:
    """The in-toto Statement as canonical JSON, to be signed as a DSSE payload."""
    predicate: dict[str, object] = {
        "verdict": audit.verdict,
        "reason": audit.reason,
        "tier": audit.tier,
        "policy": audit.policy.to_json(),
        "suite": audit.suite,
        "threat_model": audit.threat_model,
        "gradient": audit.gradient,
        "original": _text_of(audit.original),
        "tests": [test.to_json() for test in audit.tests],
        "controls": [controls.to_json() for controls in audit.controls],
        "not_tested": [{"id": name, "reason": reason} for name, reason in audit.not_tested],
        "evidence": _text_of(audit.evidence),
        "reissue_of": _text_of(audit.reissue_of),
        "audited_at": format_time(audit.audited_at),
        "expires": format_time(audit.expires),
    }
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": audit.subject_name, "digest": {"sha256": audit.subject.hex}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
    )


def verify_attestation(
    data: bytes,
    *,
    keys: Sequence[Key],
    now: datetime,
    threshold: int = 1,
    waiver_threshold: int = 1,
    subject: Digest | None = None,
    where: str = "attestation",
    limits: Limits = DEFAULT_LIMITS,
) -> VerifiedAudit:
    """Returns what the auditors signed.

    Checks, in order: (1) envelope and signatures, (2) statement and predicate schema, (3) agreement of the statement with
    itself, (4) signatures on a waiver, (5) subject, (6) times.

    Args:
        data: the envelope.
        keys: of the auditors.
        now: the clock; a statement may be 10 minutes ahead of it.
        threshold: different keys that must have signed.
        waiver_threshold: the same for a waiver, where nobody attacked anything: the audit role's own threshold.
        subject: digest of the bytes that it must be about.
        where: names the statement in errors.
        limits: bounds on what is read.

    Raises:
        FormatError, LimitError: not such a statement, or one that contradicts itself (``attestation_verdict``).
        TrustError: ``signature_threshold``, ``attestation_subject``, ``attestation_early``, ``attestation_expired``.
    """
    signed = verify_envelope(
        data, payload_type=PAYLOAD_TYPE, keys=keys, threshold=threshold, max_bytes=limits.max_attestation_bytes, where=where
    )
    audit = _parse_statement(signed.payload, where=where, limits=limits)
    _check_agreement(audit, where)
    if audit.verdict == WAIVED and len(signed.keyids) < waiver_threshold:
        raise TrustError(
            "too few valid signatures on a waiver",
            code="signature_threshold",
            where=where,
            expected=f"at least {waiver_threshold}",
            actual=len(signed.keyids),
            hint="a waiver needs as many signatures as the audit role: `sealift audit waive` adds one to a statement that exists",
        )
    if subject is not None and audit.subject != subject:
        raise TrustError(
            "the attestation is about other bytes", code="attestation_subject", where=where, expected=subject, actual=audit.subject
        )
    _check_times(audit, now, where)
    return VerifiedAudit(audit, BlobRef.of(data), signed.keyids)


def worst_result(results: Sequence[str]) -> str:
    """What several results amount to; nothing tested is INCONCLUSIVE."""
    return min(results, key=RESULTS.index, default="INCONCLUSIVE")


def _check_times(audit: PrivacyAudit, now: datetime, where: str) -> None:
    if not audit.audited_at < audit.expires:
        raise FormatError("the attestation expires before it begins", code="time_order", where=where)
    if audit.audited_at > now + _CLOCK_SKEW:
        raise TrustError(
            "the attestation is from the future",
            code="attestation_early",
            where=where,
            expected=f"audited at most 10 minutes after {format_time(now)}",
            actual=format_time(audit.audited_at),
            hint="check this machine's clock, and the auditor's",
        )
    if now >= audit.expires:
        raise TrustError(
            "the attestation has expired",
            code="attestation_expired",
            where=where,
            actual=format_time(audit.expires),
            hint="run the audit again",
        )


def _check_agreement(audit: PrivacyAudit, where: str) -> None:
    """A verdict that its own numbers do not support is no verdict, whoever signed it."""
    controls = {item.family: item for item in audit.controls}
    blind = [test.id for test in audit.tests if test.result == "PASSED" and not _supported(controls.get(test.family))]
    names = [test.id for test in audit.tests] + [name for name, _ in audit.not_tested]
    if audit.verdict == WAIVED:
        said = audit.reason is not None and audit.reason.strip() != "" and audit.evidence is None and not audit.tests
        problem = None if said and not audit.controls else "a waiver gives a reason, and no test, control or evidence"
    elif audit.reason is not None or audit.evidence is None:
        problem = "an audit names its evidence, and gives no reason of a waiver"
    elif len(set(names)) != len(names) or len(controls) != len(audit.controls):
        problem = "a test or a family is named twice"
    elif audit.verdict != worst_result([test.result for test in audit.tests]):
        problem = f"the verdict {audit.verdict} is not the worst result of its tests"
    else:
        problem = f"{blind[0]} passed, and the controls of its family do not support it" if blind else None
    if problem is not None:
        raise FormatError(f"the attestation contradicts itself: {problem}", code="attestation_verdict", where=where)


def _supported(controls: AuditControls | None) -> bool:
    """Controls that can stand behind a pass: they held, a planted leak was caught, and a null control was there."""
    return controls is not None and controls.held and controls.power is not None and controls.planted_caught > 0 < controls.null


def _parse_statement(payload: bytes, *, where: str, limits: Limits) -> PrivacyAudit:
    value = parse_strict(payload, max_bytes=limits.max_attestation_bytes, where=where, limits=limits)
    statement = Fields(value, where=where, known=("_type", "subject", "predicateType", "predicate"))
    statement.text("_type", choices=(STATEMENT_TYPE,))
    statement.text("predicateType", choices=(PREDICATE_TYPE,))
    subjects = statement.items("subject", _read_subject, max_items=1)
    if len(subjects) != 1:
        raise FormatError("not exactly one subject", code="attestation_subject", where=where)
    predicate = statement.fields("predicate", known=_PREDICATE_FIELDS)
    return PrivacyAudit(
        subject=subjects[0][1],
        subject_name=subjects[0][0],
        verdict=predicate.text("verdict", choices=VERDICTS),
        reason=None if predicate.raw("reason") is None else predicate.text("reason", max_chars=MAX_REASON_CHARS),
        tier=predicate.text("tier", choices=TIERS),
        policy=PolicyRef.read(predicate.fields("policy", known=("id", "version", "digest"))),
        suite=predicate.text("suite", max_chars=128),
        threat_model=predicate.text("threat_model", choices=THREAT_MODELS),
        gradient=predicate.text("gradient", choices=GRADIENTS),
        original=_digest(predicate, "original"),
        tests=predicate.items("tests", _read_test, max_items=64),
        controls=predicate.items("controls", _read_controls, max_items=16),
        not_tested=predicate.items("not_tested", _read_not_tested, max_items=64),
        evidence=_digest(predicate, "evidence"),
        reissue_of=_digest(predicate, "reissue_of"),
        audited_at=parse_time(predicate.raw("audited_at"), f"{where}.audited_at"),
        expires=parse_time(predicate.raw("expires"), f"{where}.expires"),
    )


def _read_subject(value: object, where: str) -> tuple[str, Digest]:
    fields = Fields(value, where=where, known=("name", "digest"))
    return fields.text("name", max_chars=256), Digest(fields.fields("digest", known=("sha256",)).text("sha256"))


def _read_test(value: object, where: str) -> AuditTest:
    fields = Fields(value, where=where, known=_TEST_FIELDS)
    p_value = fields.number("p_value")
    if not 0.0 <= p_value <= 1.0:
        raise FormatError("not a probability", code="field_value", where=f"{where}.p_value", expected="0..1", actual=p_value)
    return AuditTest(
        id=fields.text("id", max_chars=64),
        family=fields.text("family", max_chars=64),
        result=fields.text("result", choices=RESULTS),
        statistic=fields.text("statistic", max_chars=128),
        estimate=_number(fields, "estimate"),
        interval=_interval(fields, "interval"),
        threshold=_number(fields, "threshold"),
        p_value=p_value,
    )


def _read_controls(value: object, where: str) -> AuditControls:
    fields = Fields(value, where=where, known=_CONTROL_FIELDS)
    planted, null = fields.integer("planted"), fields.integer("null")
    return AuditControls(
        family=fields.text("family", max_chars=64),
        held=fields.boolean("held"),
        planted=planted,
        planted_caught=fields.integer("planted_caught", maximum=planted),
        null=null,
        null_alarms=fields.integer("null_alarms", maximum=null),
        power=_number(fields, "power"),
        power_unit=fields.text("power_unit", max_chars=1024),
    )


def _read_not_tested(value: object, where: str) -> tuple[str, str]:
    fields = Fields(value, where=where, known=("id", "reason"))
    return fields.text("id", max_chars=64), fields.text("reason", max_chars=MAX_REASON_CHARS)


def _number(fields: Fields, key: str) -> float | None:
    return None if fields.raw(key) is None else fields.number(key)


def _interval(fields: Fields, key: str) -> tuple[float, float] | None:
    if fields.raw(key) is None:
        return None
    ends = fields.items(key, lambda value, where: Fields({"end": value}, where=where).number("end"), max_items=2)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise FormatError("not an interval", code="field_value", where=f"{fields.where}.{key}", expected="two ends, lower first")
    return ends[0], ends[1]


def _digest(fields: Fields, key: str) -> Digest | None:
    return None if fields.raw(key) is None else Digest.parse(fields.raw(key), where=f"{fields.where}.{key}")


def _text_of(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)
