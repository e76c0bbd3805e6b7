"""The evidence of a run as frozen records, and how ``audit.json`` is written: complete, canonical, the same bytes for the same run.

Apart from the fields ``audited_at``, ``expires`` and ``duration_s`` a run with the same inputs on the same machine writes
the same bytes. No record, image or pixel is in it. ``evidence_reader`` reads it back and rules again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from audits.finding import Control, FamilyResult, Finding
from audits.policy import Policy
from audits.targets import ORIGINAL
from audits.verdict import ModelFacts, Ruling, Verdict
from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.errors import FormatError
from device_client.trust.times import format_time

SCHEMA = "sealift.audit/2"
SUITE = "sealift-audit/1"
AUDIT_FILE = "audit.json"
IMAGES_FILE = "images.npz"


@dataclass(frozen=True)
class SubjectEvidence:
    """One model: what holds for it, and what was decided. What was found is in the families."""

    id: str
    digest: Digest
    size_bytes: int
    facts: ModelFacts
    ruling: Ruling

    @property
    def verdict(self) -> Verdict:
        """Of the ruling."""
        return self.ruling.verdict

    @property
    def reasons(self) -> tuple[str, ...]:
        """Of the ruling."""
        return self.ruling.reasons

    def to_json(self) -> dict[str, Any]:
        """The entry of ``subjects``."""
        return {
            "id": self.id,
            "digest": str(self.digest),
            "size_bytes": self.size_bytes,
            "gradient": self.facts.gradient,
            "random_operators": list(self.facts.random_operators),
            **ruling_to_json(self.ruling),
        }


@dataclass(frozen=True)
class Audit:
    """A whole run.

    Attributes:
        bundle: digest of the manifest whose variants were audited, and its path.
        original: digest of the uncompressed model.
        data: counts and digest of the records; never a record.
        families: everything that was found, in the order of the run.
        images: digest of the image file beside the report, and whether it holds full images.
    """

    policy: Policy
    tools: dict[str, str]
    data: dict[str, Any]
    bundle: dict[str, str]
    original: Digest
    subjects: tuple[SubjectEvidence, ...]
    families: tuple[FamilyResult, ...]
    images: dict[str, Any]
    audited_at: datetime
    expires: datetime
    duration_s: float

    @property
    def variants(self) -> tuple[SubjectEvidence, ...]:
        """The subjects that can be attested."""
        return tuple(subject for subject in self.subjects if subject.id != ORIGINAL)

    def family(self, name: str) -> FamilyResult | None:
        """What one family found; None if it did not run."""
        return next((family for family in self.families if family.family == name), None)

    def finding(self, subject: str, test: str) -> Finding | None:
        """What one test found about one model; None if it gave nothing."""
        found = (item for family in self.families for item in family.findings.get(subject, ()) if item.test == test)
        return next(found, None)

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
            "families": [_family_to_json(family) for family in self.families],
            "images": self.images,
            "audited_at": format_time(self.audited_at),
            "expires": format_time(self.expires),
            "duration_s": self.duration_s,
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON; its digest is the ``evidence`` of the attestation."""
        return canonical_json(self.to_json())


def ruling_to_json(ruling: Ruling) -> dict[str, Any]:
    """Everything that was decided about one model."""
    return {
        "verdict": ruling.verdict.value,
        "reasons": list(ruling.reasons),
        "tests": [
            {"test": item.test, "result": item.result.value, "p_value": item.p_value, "reasons": list(item.reasons)}
            for item in ruling.tests
        ],
        "not_tested": [{"test": item.test, "reason": item.reason} for item in ruling.not_tested],
    }


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


def _family_to_json(family: FamilyResult) -> dict[str, Any]:
    """All of it but the images."""
    return {
        "family": family.family,
        "findings": {subject: [_plain(item) for item in items] for subject, items in family.findings.items()},
        "controls": [_plain(control) for control in family.controls],
        "power": family.power,
        "power_unit": family.power_unit,
        "detail": dict(family.detail),
        "shared": family.shared,
    }


def _plain(item: Finding | Control) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(item).items()}
