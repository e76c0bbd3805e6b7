"""Which of the tests run, given what the policy asks for and what its attacker holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audits.retrieval.settings import TESTS, RetrievalSettings
from audits.retrieval.sights import BLACK_BOX, LABEL_ONLY, OUTSIDE


def full_name(name: str) -> str:
    """A test's id in findings and policies."""
    return f"inversion.{name}"


@dataclass(frozen=True)
class Asked:
    """Which tests run in a run, given what the attacker holds.

    Attributes:
        tests: those that run.
        inside: whether the attacker holds the file.
        outside: attacks from outside that run.
        threat_model: of the policy.
        blocks: tests with null distributions of their own that are judged; they share alpha.
    """

    tests: tuple[str, ...]
    inside: bool
    outside: tuple[str, ...]
    threat_model: str
    blocks: int

    def decides(self, attack: str, *, blocked: bool) -> bool:
        """Whether finding nothing by this attack needs to mean something: no stronger one can be run."""
        if attack == LABEL_ONLY:
            return self.threat_model == "label_only"
        return self.threat_model == "sealed_api" or (self.threat_model == "white_box" and blocked)

    def why_not(self, test: str) -> str:
        """Why a test is not among those that run."""
        if test == "swap_split" and not self.inside:
            return f"needs the file, which the threat model {self.threat_model} does not give"
        if test == BLACK_BOX and self.threat_model == "label_only":
            return "needs scores, which the threat model label_only does not give"
        return "the policy does not ask for it"


def access(settings: RetrievalSettings, wanted: Sequence[str], *, threat_model: str) -> Asked:
    """What may run: nothing that needs more than the attacker has."""
    inside = threat_model == "white_box"
    denied = set() if inside else {"swap_split"}
    if threat_model == "label_only":
        denied.add(BLACK_BOX)
    tests = tuple(name for name in TESTS if name in wanted and name not in denied)
    outside = tuple(name for name in OUTSIDE if name in tests)
    judged = [bool(outside), "identity" in tests and not settings.identity_is_public, "swap_split" in tests]
    return Asked(tests, inside, outside, threat_model, max(1, sum(judged)))
