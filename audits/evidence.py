"""The evidence of a run as frozen records, and ``audit.json``: complete, canonical, the same bytes for the same run.

Apart from the fields ``audited_at``, ``expires`` and ``duration_s`` a run with the same inputs on the same machine writes
the same bytes. No record, image or pixel is in it. ``read_audit`` is strict and rules again from the numbers, so a file
whose verdict was edited does not load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from audits.policy import Policy, policy_from_json
from audits.targets import ORIGINAL
from audits.verdict import RunFindings, SubjectFindings, Verdict, rule
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, IntegrityError, UsageError
from device_client.trust.times import format_time, parse_time

SCHEMA = "sealift.audit/1"
SUITE = "sealift-inversion/1"
AUDIT_FILE = "audit.json"
IMAGES_FILE = "images.npz"
MAX_AUDIT_BYTES = 32 * 1024 * 1024
_TOP = (
    "schema", "suite", "policy", "tools", "data", "bundle", "original", "subjects", "controls", "images",
    "audited_at", "expires", "duration_s",
)  # fmt: skip
_SUBJECT = ("id", "digest", "size_bytes", "verdict", "reasons", "findings", "access", "attacks", "tests", "delta")


@dataclass(frozen=True)
class SubjectEvidence:
    """One model: what was found, what was decided, and every number behind it (``detail``, JSON values)."""

    id: str
    digest: Digest
    size_bytes: int
    verdict: Verdict
    reasons: tuple[str, ...]
    findings: SubjectFindings
    detail: dict[str, Any]  # access, attacks, tests, delta

    def to_json(self) -> dict[str, Any]:
        """The entry of ``subjects``."""
        return {
            "id": self.id,
            "digest": str(self.digest),
            "size_bytes": self.size_bytes,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "findings": asdict(self.findings),
            **self.detail,
        }


@dataclass(frozen=True)
class Audit:
    """A whole run.

    Attributes:
        bundle: digest of the manifest whose variants were audited, and its path.
        original: digest of the uncompressed model.
        data: counts and digest of the records; never a record.
        controls: findings of the controls and every number behind them (``control_detail``).
        images: digest of the image file beside the report, and whether it holds full images.
    """

    policy: Policy
    tools: dict[str, str]
    data: dict[str, Any]
    bundle: dict[str, str]
    original: Digest
    subjects: tuple[SubjectEvidence, ...]
    controls: RunFindings
    control_detail: dict[str, Any]
    images: dict[str, Any]
    audited_at: datetime
    expires: datetime
    duration_s: float

    @property
    def variants(self) -> tuple[SubjectEvidence, ...]:
        """The subjects that can be attested."""
        return tuple(subject for subject in self.subjects if subject.id != ORIGINAL)

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {
            "schema": SCHEMA,
            "suite": SUITE,
            "policy": {"digest": str(self.policy.digest), "values": self.policy.to_json()},
            "tools": self.tools,
            "data": self.data,
            "bundle": self.bundle,
            "original": str(self.original),
            "subjects": [subject.to_json() for subject in self.subjects],
            "controls": {"findings": asdict(self.controls), **self.control_detail},
            "images": self.images,
            "audited_at": format_time(self.audited_at),
            "expires": format_time(self.expires),
            "duration_s": self.duration_s,
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON; its digest is the ``evidence`` of the attestation."""
        return canonical_json(self.to_json())


def read_audit(data: bytes, *, where: str) -> Audit:
    """Reads ``audit.json`` and rules again.

    Raises:
        FormatError, LimitError: not such a document.
        IntegrityError: a verdict, the policy digest or the canonical form differs from what the numbers say (``audit_edited``).
    """
    fields = Fields(parse_strict(data, max_bytes=MAX_AUDIT_BYTES, where=where), where=where, known=_TOP)
    fields.text("schema", choices=(SCHEMA,))
    fields.text("suite", choices=(SUITE,))
    policy = _read_policy(fields.fields("policy", known=("digest", "values")), where)
    controls = fields.fields("controls")
    run = _read_run(controls.fields("findings"))
    audit = Audit(
        policy=policy,
        tools=fields.mapping("tools", _read_string),
        data=_object(fields.raw("data"), f"{where}.data"),
        bundle=fields.mapping("bundle", _read_string),
        original=Digest.parse(fields.raw("original"), where=f"{where}.original"),
        subjects=fields.items("subjects", lambda value, at: _read_subject(value, at, run, policy), max_items=65),
        controls=run,
        control_detail={key: controls.raw(key) for key in controls.keys() if key != "findings"},  # noqa: SIM118
        images=_object(fields.raw("images"), f"{where}.images"),
        audited_at=parse_time(fields.raw("audited_at"), f"{where}.audited_at"),
        expires=parse_time(fields.raw("expires"), f"{where}.expires"),
        duration_s=fields.number("duration_s"),
    )
    if audit.to_bytes() != data:
        raise _edited("the canonical form", where)
    return audit


@contextmanager
def readable_details(where: str) -> Iterator[None]:
    """Turns a detail of the evidence that is not of its form (it decides nothing, so it is read late) into an error of ours.

    Raises:
        FormatError: ``audit_syntax``.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise FormatError(
            f"a detail of the audit is not of its form: {type(e).__name__} {e}"[:200],
            code="audit_syntax",
            where=where,
            hint="the file was changed after the run; run the audit again",
        ) from e


def _read_policy(fields: Fields, where: str) -> Policy:
    try:
        policy = policy_from_json(fields.raw("values"), where=f"{where}.policy")
    except UsageError as e:
        raise FormatError(f"not a policy: {e.what}", code="audit_syntax", where=where, expected=e.expected, actual=e.actual) from e
    if policy.digest != Digest.parse(fields.raw("digest"), where=f"{where}.policy.digest"):
        raise _edited("the policy digest", where)
    return policy


def _read_subject(value: object, where: str, run: RunFindings, policy: Policy) -> SubjectEvidence:
    fields = Fields(value, where=where, known=_SUBJECT)
    findings = _read_findings(fields.fields("findings"))
    ruling = rule(findings, run, policy)
    verdict = Verdict(fields.text("verdict", choices=[item.value for item in Verdict]))
    reasons = fields.items("reasons", _read_string)
    if (verdict, reasons) != (ruling.verdict, ruling.reasons):
        raise _edited(f"the verdict {verdict.value}", where)
    return SubjectEvidence(
        id=fields.text("id", max_chars=128),
        digest=Digest.parse(fields.raw("digest"), where=f"{where}.digest"),
        size_bytes=fields.integer("size_bytes"),
        verdict=verdict,
        reasons=reasons,
        findings=findings,
        detail={key: fields.raw(key) for key in ("access", "attacks", "tests", "delta")},
    )


def _read_findings(fields: Fields) -> SubjectFindings:
    blocked, delta = fields.raw("blocked"), fields.raw("delta_lower")
    return SubjectFindings(
        blocked=None if blocked is None else fields.text("blocked", max_chars=4096),
        parity_holds=fields.boolean("parity_holds"),
        converged_share=fields.number("converged_share"),
        transfer_tested=fields.boolean("transfer_tested"),
        p_value=fields.number("p_value"),
        p_adjusted=fields.number("p_adjusted"),
        delta_lower=None if delta is None else fields.number("delta_lower"),
    )


def _read_run(fields: Fields) -> RunFindings:
    smallest = fields.raw("smallest_caught")
    return RunFindings(
        thin_classes=fields.integer("thin_classes"),
        smallest_caught=None if smallest is None else fields.number("smallest_caught"),
        compressed_missed=fields.items("compressed_missed", _read_string),
        null_alarms=fields.items("null_alarms", _read_string),
        relabelling_alarms=fields.integer("relabelling_alarms"),
        relabelling_limit=fields.integer("relabelling_limit"),
    )


def _read_string(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise FormatError("wrong type", code="field_type", where=where, expected="a string", actual=type(value).__name__)
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError("wrong type", code="field_type", where=where, expected="an object", actual=type(value).__name__)
    return value


def _edited(what: str, where: str) -> IntegrityError:
    return IntegrityError(
        f"{what} is not what the numbers of the audit say",
        code="audit_edited",
        where=where,
        hint="the file was changed after the run, or comes from another version; run the audit again",
    )
