"""Models and one full run, made once for all audit tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audits.data import AuditData
from audits.policy import AskedTests, Policy, load_policy
from audits.run import RunResult, run_audit
from audits.targets import ORIGINAL, BundleTargets, Subject
from device_client.bundle.digest import Digest
from tests.unit.audits import models

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Case:
    """What one audit needs."""

    original: bytes
    variant: bytes
    data: AuditData

    def run(self, policy: Policy) -> RunResult:
        targets = BundleTargets(
            Digest.of(b"manifest"), "clinic/digits/1.0.0", (Subject("int8-static", models.checked(self.variant), RANGE),)
        )
        return run_audit(targets, Subject(ORIGINAL, models.checked(self.original), RANGE), self.data, policy=policy, now=NOW)


@pytest.fixture(scope="session")
def policy() -> Policy:
    """The instance family of the built-in policy, a smaller null distribution, fine enough for its alpha, and fewer controls."""
    default = load_policy()
    return replace(
        default,
        tests=AskedTests(("inversion.instance",), ()),
        decision=replace(default.decision, permutations=999, bootstraps=300),
        controls=replace(default.controls, planted_strengths=(0.2, 0.5, 1.0), untrained_twins=1),
    )


def make_case(*, seed: int, per_class: int | None, epochs: int) -> Case:
    member = models.half(seed, per_class=per_class)
    data = models.digits_data(member)
    original = models.to_onnx(models.train(member, epochs=epochs))
    return Case(original, models.quantised(original, data.x[member][:50]), data)


@pytest.fixture(scope="session")
def good() -> Case:
    """Trained on ninety records of each class."""
    return make_case(seed=0, per_class=None, epochs=30)


@pytest.fixture(scope="session")
def overfit() -> Case:
    """Trained on five records of each class, for long."""
    return make_case(seed=0, per_class=5, epochs=200)


@pytest.fixture(scope="session")
def good_run(good: Case, policy: Policy) -> RunResult:
    return good.run(policy)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "audit"
