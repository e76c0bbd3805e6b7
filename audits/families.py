"""Which families of tests exist: their tests, what an attacker needs for each, and where their code is.

A family is added by one entry here. Nothing of it is imported before a policy asks for it, so that commands which only read
or sign start without the libraries that attack. The order is the order of a run and of everything that is written.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audits.family import Bench
    from audits.finding import FamilyResult

# Judged in place of the white-box inversion tests of a model that gives no gradient.
QUERIES_ONLY = "inversion.black_box"


class Access(Enum):
    """What the attacker of a test holds."""

    FILE = "file"
    SCORES = "scores"
    LABELS = "labels"


_ALLOWED = {
    "white_box": (Access.FILE, Access.SCORES, Access.LABELS),
    "sealed_api": (Access.SCORES, Access.LABELS),
    "label_only": (Access.LABELS,),
}
THREAT_MODELS = tuple(_ALLOWED)


@dataclass(frozen=True)
class TestKind:
    """One test of a family."""

    __test__ = False  # not for pytest

    id: str
    access: Access


@dataclass(frozen=True)
class Family:
    """A family as the run knows it.

    Attributes:
        name: of the family, and of its table in the policy where it has one.
        tests: everything that it can find out.
        runner: ``module:function`` of ``run(bench, settings) -> FamilyResult``, or of ``run(bench)`` where ``settings`` is None.
        settings: ``module:function`` of ``read(section, *, where) -> frozen dataclass``; None: the policy's own tables say it all.
    """

    name: str
    tests: tuple[TestKind, ...]
    runner: str
    settings: str | None = None

    def read_settings(self, section: Mapping[str, Any], *, where: str) -> Any:
        """The family's table, checked by the family."""
        if self.settings is None:
            raise ValueError(f"{self.name} has no table")
        return _load(self.settings)(section, where=where)

    def run(self, bench: Bench) -> FamilyResult:
        """Runs it under the bench's policy."""
        arguments = () if self.settings is None else (bench.policy.families[self.name],)
        result: FamilyResult = _load(self.runner)(bench, *arguments)
        return result


FAMILIES: tuple[Family, ...] = (
    Family("instance", (TestKind("inversion.instance", Access.FILE),), "audits.instance:run_instance"),
    Family(
        "retrieval",
        (
            TestKind("inversion.identity", Access.SCORES),
            TestKind("inversion.black_box", Access.SCORES),
            TestKind("inversion.label_only", Access.LABELS),
            TestKind("inversion.swap_split", Access.FILE),
        ),
        "audits.retrieval.run:run_retrieval",
        "audits.retrieval.settings:read_settings",
    ),
    Family(
        "membership",
        (
            TestKind("membership.threshold", Access.SCORES),
            TestKind("membership.rmia", Access.SCORES),
            TestKind("membership.lira", Access.SCORES),
            TestKind("membership.joint", Access.SCORES),
        ),
        "audits.membership.run:run_membership",
        "audits.membership.settings:read",
    ),
    Family(
        "attribute",
        (TestKind("attribute.inference", Access.SCORES),),
        "audits.attribute.run:run_attribute",
        "audits.attribute.settings:read_settings",
    ),
)


def known_tests() -> tuple[str, ...]:
    """Ids of all tests of all families, in order."""
    return tuple(test.id for family in FAMILIES for test in family.tests)


def access_of(test: str) -> Access:
    """What the attacker of a test holds; a test that no family names needs the file."""
    found = [kind.access for family in FAMILIES for kind in family.tests if kind.id == test]
    return found[0] if found else Access.FILE


def excluded(test: str, *, threat_model: str) -> str | None:
    """Why a test does not run under this threat model; None if it does."""
    if access_of(test) in _ALLOWED[threat_model]:
        return None
    return f"the attacker of this test holds the {access_of(test).value}, which the policy's threat model {threat_model} rules out"


def _load(text: str) -> Callable[..., Any]:
    module, _, name = text.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
