"""Why a device did what it did: the steps of the last poll of a model, each with the value that decided, kept for people.

Filled in by ``poll.py`` while it runs, stored at its end whatever the outcome, and told by ``sealift device explain``. It holds
names, versions, digests and measured values; never inputs of a model and never secrets. It is a memory aid: nothing reads it to
decide anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from device_client.bundle.path import ModelPath
from device_client.bundle.strict_json import canonical_json
from device_client.errors import SealiftError
from device_client.trust.times import format_time

SCHEMA = 1
_MAX_CHARS = 400
_MAX_STEPS = 64


@dataclass(frozen=True)
class Step:
    """One question and its answer.

    Attributes:
        rule: a stable id: of the step, or the code of the refusal.
        passed: whether the poll went on.
        told: a sentence for people.
        measured: the value that decided, if there is one.
        expected: what was asked of it.
        hint: what helps, of a refusal.
    """

    rule: str
    passed: bool
    told: str
    measured: str | None = None
    expected: str | None = None
    hint: str | None = None


@dataclass
class Trace:
    """The steps of one poll, in order."""

    steps: list[Step] = field(default_factory=list)

    def passed(self, rule: str, told: str, *, measured: object = None, expected: object = None) -> None:
        """A question that was answered well."""
        self._add(Step(rule, True, told, _text(measured), _text(expected)))

    def refused(self, error: SealiftError) -> None:
        """The answer that ended the poll."""
        told = error.what if error.where is None else f"{error.what} ({error.where})"
        self._add(Step(error.code, False, told[:_MAX_CHARS], _text(error.actual), _text(error.expected), _text(error.hint)))

    def to_bytes(self, model: ModelPath, *, result: str, now: datetime, running: str | None, standing: str) -> bytes:
        """The stored form."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "model": str(model),
                "at": format_time(now),
                "result": result,
                "running": running,
                "standing": standing,
                "steps": [_step(step) for step in self.steps],
            }
        )

    def _add(self, step: Step) -> None:
        if len(self.steps) < _MAX_STEPS:
            self.steps.append(step)


def decision_text(decision: Mapping[str, object]) -> str:
    """The human form of a stored decision."""
    running = decision["running"] or "nothing"
    lines = [f"{decision['model']}: last decision at {decision['at']}: {decision['result']}; running: {running}"]
    steps = decision["steps"]
    for number, step in enumerate(steps if isinstance(steps, list) else (), start=1):
        mark = "ok" if step["passed"] else "NO"
        values = [f"measured {step['measured']}"] if step["measured"] else []
        values += [f"asked for {step['expected']}"] if step["expected"] else []
        end = f": {'; '.join(values)}" if values else ""
        lines.append(f"  {number:2} {mark} {step['rule']}: {step['told']}{end}")
        if step["hint"]:
            lines.append(f"        hint: {step['hint']}")
    return "\n".join(lines)


def read_decision(data: bytes) -> dict[str, object]:
    """A stored decision; it was written here, so it is read plainly."""
    found: dict[str, object] = json.loads(data)
    return found


def _step(step: Step) -> dict[str, object]:
    return {
        "rule": step.rule,
        "passed": step.passed,
        "told": step.told,
        "measured": step.measured,
        "expected": step.expected,
        "hint": step.hint,
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:_MAX_CHARS]
