"""What the page shows, as plain records: between the evidence, which has its own form, and the sections, which only draw.

``audits.report.evidence_view`` makes it; the sections and the command line's summary read it. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from audits.finding import FamilyResult, Finding


@dataclass(frozen=True)
class SubjectView:
    """One model.

    Attributes:
        verdict: the ruling's word.
        reasons: of the ruling, in plain words.
        is_original: compared with, and not attested.
        results: the ruling's word on each test, by its id; empty where the ruling is about all of them together.
        not_tested: ids of tests that did not run, with the reason.
        gradient: how the attacks had one; None where that is not recorded.
        random_operators: operators of its graph that draw random numbers.
    """

    id: str
    digest: str
    size_bytes: int
    verdict: str
    reasons: tuple[str, ...]
    is_original: bool
    results: Mapping[str, str] = field(default_factory=dict)
    not_tested: tuple[tuple[str, str], ...] = ()
    gradient: str | None = None
    random_operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class PolicyView:
    """What decided.

    Attributes:
        alpha: false alarm rate of the whole run.
        confidence: of the intervals that are shown.
        gap_delta: how far compression may raise the instance gap before it is a warning, in correlation.
    """

    id: str
    version: int
    tier: str
    threat_model: str
    digest: str
    seed: int
    alpha: float
    confidence: float
    gap_delta: float


@dataclass(frozen=True)
class DataView:
    """Counts of the records and the range that pictures are drawn in."""

    digest: str
    records: int
    members: int
    classes: int
    drawn_least: int
    drawn_most: int
    low: float
    high: float


@dataclass(frozen=True)
class PageView:
    """The whole page. ``evidence`` is the digest of ``audit.json``; ``tools`` maps names to versions."""

    bundle: str
    manifest: str
    evidence: str
    audited_at: datetime
    expires: datetime
    policy: PolicyView
    data: DataView
    tools: Mapping[str, str]
    subjects: tuple[SubjectView, ...]
    families: tuple[FamilyResult, ...]

    @property
    def variants(self) -> tuple[SubjectView, ...]:
        """The models that ship."""
        return tuple(subject for subject in self.subjects if not subject.is_original)

    @property
    def tests(self) -> tuple[str, ...]:
        """Ids of all tests, those that ran nowhere included, in the order of the families."""
        return tuple(dict.fromkeys(finding.test for _, finding in self.findings()))

    @property
    def tests_run(self) -> frozenset[str]:
        """Ids of the tests that ran on at least one model."""
        return frozenset(finding.test for _, finding in self.findings() if finding.not_run is None)

    def findings(self) -> Iterator[tuple[SubjectView, Finding]]:
        """Every finding with its model: families in their order, models in theirs."""
        for family in self.families:
            for subject in self.subjects:
                for finding in family.findings.get(subject.id, ()):
                    yield subject, finding

    def not_run(self) -> dict[tuple[str, str], list[str]]:
        """Ids of the models that a test did not run on, by test and reason."""
        found: dict[tuple[str, str], list[str]] = {}
        for subject in self.subjects:
            own = {
                finding.test: finding.not_run
                for item, finding in self.findings()
                if item is subject and finding.not_run is not None
            }
            for key in {**own, **dict(subject.not_tested)}.items():
                found.setdefault(key, []).append(subject.id)
        return found

    def details(self, *tests: str) -> Iterator[tuple[SubjectView, Mapping[str, Any]]]:
        """What the families that hold any of these tests tell about each model; models without a word are left out.

        A test is looked for, and no family's name, so that tests may move between families.
        """
        for family in self.families:
            names = {finding.test for found in family.findings.values() for finding in found}
            if names.isdisjoint(tests):
                continue
            for subject in self.subjects:
                told = family.detail.get(subject.id)
                if told:
                    yield subject, told

    def shared(self, *tests: str) -> Mapping[str, Any]:
        """What the first family with any of these tests says about itself; empty where there is none."""
        for family in self.families:
            if any(finding.test in tests for found in family.findings.values() for finding in found):
                return family.shared
        return {}
