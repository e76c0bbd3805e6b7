"""Reads ``audit.json`` strictly and rules again from its numbers, so that a file whose verdict was edited does not load.

What decides is read field by field in closed records; what is only shown (details of the families, data, tools) is kept as it is
and read where it is shown. What this does not find: a complete document whose numbers were all made up.
"""

from __future__ import annotations

from typing import Any

from audits.evidence import SCHEMA, SUITE, Audit, SubjectEvidence, ruling_to_json
from audits.finding import Control, FamilyResult, Finding, power_of
from audits.policy import Policy, policy_from_json
from audits.verdict import ModelFacts, gradient_of, rule
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, IntegrityError, UsageError
from device_client.trust.times import parse_time

MAX_AUDIT_BYTES = 64 * 1024 * 1024
_MAX_SUBJECTS = 65
_MAX_FAMILIES = 16
_MAX_TESTS = 64
_MAX_CONTROLS = 4096
_TOP = (
    "schema", "suite", "policy", "tools", "data", "bundle", "original", "subjects", "families", "images",
    "audited_at", "expires", "duration_s",
)  # fmt: skip
_RULED = ("verdict", "reasons", "tests", "not_tested")
_SUBJECT = ("id", "digest", "size_bytes", "gradient", "random_operators", *_RULED)
_FAMILY = ("family", "findings", "controls", "power", "power_unit", "detail", "shared")
_FINDING = (
    "test", "p_value", "p_adjusted", "statistic", "estimate", "interval", "tolerated", "blind", "undone", "doubts", "not_run",
    "threshold",
)  # fmt: skip
_CONTROL = ("name", "planted", "held", "required", "strength", "told")


def read_audit(data: bytes, *, where: str) -> Audit:
    """Reads ``audit.json`` and rules again.

    Raises:
        FormatError, LimitError: not such a document.
        IntegrityError: a ruling, a power, the policy digest or the canonical form differs from what the numbers say
            (``audit_edited``).
    """
    fields = Fields(parse_strict(data, max_bytes=MAX_AUDIT_BYTES, where=where), where=where, known=_TOP)
    fields.text("schema", choices=(SCHEMA,))
    fields.text("suite", choices=(SUITE,))
    policy = _read_policy(fields.fields("policy", known=("digest", "values")), where)
    families = fields.items("families", _read_family, max_items=_MAX_FAMILIES)
    if len({family.family for family in families}) != len(families):
        raise _edited("the list of families", where)
    for subject in {name for family in families for name in family.findings}:
        tests = [item.test for family in families for item in family.findings.get(subject, ())]
        if len(set(tests)) != len(tests):
            raise _edited(f"the list of tests on {subject}", where)
    subjects = fields.items("subjects", lambda value, at: _read_subject(value, at, families, policy), max_items=_MAX_SUBJECTS)
    if len({subject.id for subject in subjects}) != len(subjects):
        raise _edited("the list of models", where)
    audit = Audit(
        policy=policy,
        tools=fields.mapping("tools", _read_string),
        data=_object(fields.raw("data"), f"{where}.data"),
        bundle=fields.mapping("bundle", _read_string),
        original=Digest.parse(fields.raw("original"), where=f"{where}.original"),
        subjects=subjects,
        families=families,
        images=_object(fields.raw("images"), f"{where}.images"),
        audited_at=parse_time(fields.raw("audited_at"), f"{where}.audited_at"),
        expires=parse_time(fields.raw("expires"), f"{where}.expires"),
        duration_s=fields.number("duration_s"),
    )
    if audit.to_bytes() != data:
        raise _edited("the canonical form", where)
    return audit


def _read_policy(fields: Fields, where: str) -> Policy:
    try:
        policy = policy_from_json(fields.raw("values"), where=f"{where}.policy")
    except UsageError as e:
        raise FormatError(f"not a policy: {e.what}", code="audit_syntax", where=where, expected=e.expected, actual=e.actual) from e
    if policy.digest != Digest.parse(fields.raw("digest"), where=f"{where}.policy.digest"):
        raise _edited("the policy digest", where)
    return policy


def _read_subject(value: object, where: str, families: tuple[FamilyResult, ...], policy: Policy) -> SubjectEvidence:
    fields = Fields(value, where=where, known=_SUBJECT)
    name = fields.text("id", max_chars=128)
    facts = ModelFacts(fields.text("gradient", max_chars=64), fields.items("random_operators", _read_string, max_items=64))
    if facts.gradient != gradient_of(name, families):
        raise _edited(f"the gradient on {name}", where)
    ruling = rule(name, facts, families, policy)
    if {key: fields.raw(key) for key in _RULED} != ruling_to_json(ruling):
        raise _edited(f"the verdict {fields.text('verdict')} on {name}", where)
    return SubjectEvidence(
        id=name,
        digest=Digest.parse(fields.raw("digest"), where=f"{where}.digest"),
        size_bytes=fields.integer("size_bytes"),
        facts=facts,
        ruling=ruling,
    )


def _read_family(value: object, where: str) -> FamilyResult:
    fields = Fields(value, where=where, known=_FAMILY)
    controls = fields.items("controls", _read_control, max_items=_MAX_CONTROLS)
    power = _optional_number(fields, "power")
    if power != power_of(controls):
        raise _edited("the power", where)
    return FamilyResult(
        family=fields.text("family", max_chars=64),
        findings=fields.mapping("findings", _read_findings, max_items=_MAX_SUBJECTS),
        controls=controls,
        power=power,
        power_unit=fields.text("power_unit", max_chars=1024),
        detail=fields.mapping("detail", _object, max_items=_MAX_SUBJECTS),
        shared=_object(fields.raw("shared"), f"{where}.shared"),
    )


def _read_findings(value: object, where: str) -> tuple[Finding, ...]:
    found = Fields({"findings": value}, where=where).items("findings", _read_finding, max_items=_MAX_TESTS)
    if len({item.test for item in found}) != len(found):
        raise _edited("the list of tests", where)
    return found


def _read_finding(value: object, where: str) -> Finding:
    fields = Fields(value, where=where, known=_FINDING)
    return Finding(
        test=fields.text("test", max_chars=64),
        p_value=_share(fields, "p_value"),
        p_adjusted=_share(fields, "p_adjusted"),
        statistic=fields.text("statistic", max_chars=128),
        estimate=_optional_number(fields, "estimate"),
        interval=_optional_interval(fields, "interval"),
        tolerated=_optional_number(fields, "tolerated"),
        blind=fields.items("blind", _read_string),
        undone=fields.items("undone", _read_string),
        doubts=fields.items("doubts", _read_string),
        not_run=None if fields.raw("not_run") is None else fields.text("not_run", max_chars=4096),
        threshold=_optional_number(fields, "threshold"),
    )


def _read_control(value: object, where: str) -> Control:
    fields = Fields(value, where=where, known=_CONTROL)
    return Control(
        name=fields.text("name", max_chars=256),
        planted=fields.boolean("planted"),
        held=fields.boolean("held"),
        required=fields.boolean("required"),
        strength=_optional_number(fields, "strength"),
        told=fields.text("told", max_chars=4096),
    )


def _share(fields: Fields, key: str) -> float:
    value = fields.number(key)
    if not 0.0 <= value <= 1.0:
        raise FormatError("not a probability", code="field_value", where=f"{fields.where}.{key}", expected="0..1", actual=value)
    return value


def _optional_number(fields: Fields, key: str) -> float | None:
    return None if fields.raw(key) is None else fields.number(key)


def _optional_interval(fields: Fields, key: str) -> tuple[float, float] | None:
    if fields.raw(key) is None:
        return None
    ends = fields.items(key, lambda value, where: Fields({"end": value}, where=where).number("end"), max_items=2)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise FormatError("not an interval", code="field_value", where=f"{fields.where}.{key}", expected="two ends, lower first")
    return ends[0], ends[1]


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
