"""The audit issue's figures, A1 to A14, all in one run.

    make bench-audits
    python -m benchmarks.audits --only bridge,fleet      # a part; the goals of the others are null with that reason

Reads models and data under ``SEALIFT_DATA`` (docs/data.md). Takes about an hour on two cores, for it runs some two hundred
audits. Two threads of a numerical library on few busy cores are slower than one, so this process uses one.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_file import Goal, Results

ROOT = Path(__file__).resolve().parents[1]
TAMPERING = "tests/unit/audits/test_tampering.py"  # one test for each way to tamper with bundle, policy, report or attestation
LEAST_CASES = 30
_TIMEOUT_S = 1800

Found = tuple[list[Goal], list[dict[str, Any]]]


@dataclass(frozen=True)
class Wanted:
    """A goal that some part must give. ``id``: of the issue; a part may give others beside it, such as ``A6-quanta``."""

    id: str
    what: str
    op: str
    goal: float
    unit: str = ""

    def unmeasured(self, reason: str) -> Goal:
        """The goal without a value."""
        return Goal(self.id, self.what, None, self.op, self.goal, self.unit, reason)


@dataclass(frozen=True)
class Part:
    """``run``: gives goals and rows; raises ``_AbsentError`` where this version cannot."""

    run: Callable[[], Found]
    wanted: tuple[Wanted, ...]


class _AbsentError(Exception):
    """Why a part cannot be measured in this version."""


def main() -> None:
    """Runs what was asked for, prints the table, writes ``results/audits.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="", help=f"parts to measure, with commas between: {', '.join(PARTS)}")
    only = [name for name in parser.parse_args().only.split(",") if name]
    if unknown := sorted(set(only) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}")
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's quantiser recommends things on every call
    import torch

    torch.set_num_threads(1)
    results = Results("audits")
    results.goals, results.rows = run(only)
    print(results.table())
    print(f"\n{results.write()}")
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


def run(only: Sequence[str]) -> Found:
    """Goals and rows of all parts, in the order of their ids."""
    goals: list[Goal] = []
    rows: list[dict[str, Any]] = []
    for name, part in PARTS.items():
        if only and name not in only:
            goals += [item.unmeasured("left out by --only") for item in part.wanted]
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        found, told = _measured(part)
        goals += found
        rows += told
    return sorted(goals, key=_order), rows


def _measured(part: Part) -> Found:
    """A part's goals; those that it owes and does not give are there all the same."""
    try:
        goals, rows = part.run()
    except _AbsentError as e:
        return [item.unmeasured(str(e)) for item in part.wanted], []
    given = {goal.id for goal in goals}
    return [*goals, *(item.unmeasured("the part gave no figure") for item in part.wanted if item.id not in given)], rows


def _order(goal: Goal) -> tuple[int, str]:
    return int(re.sub(r"\D.*", "", goal.id[1:]) or 0), goal.id


def _bridge() -> Found:
    from benchmarks.audits_bridge import bridge_goals

    return bridge_goals()


def _fleet() -> Found:
    from benchmarks.audits_fleet import fleet_goals

    return fleet_goals()


def _cost() -> Found:
    from benchmarks.audits_cost import cost_goals

    return cost_goals()


def _other(module: str, function: str) -> Callable[[], Found]:
    """A part that lives in a module of its own, with goals and rows, or goals alone."""

    def call() -> Found:
        if importlib.util.find_spec(module) is None:
            raise _AbsentError(f"this version has no {module}")
        found = getattr(importlib.import_module(module), function)()
        return found if isinstance(found, tuple) else (list(found), [])

    return call


def _tampering() -> Found:
    """A14: how many ways to tamper are refused; one that is let through makes it none."""
    if not (ROOT / TAMPERING).is_file():
        raise _AbsentError(f"this version has no {TAMPERING}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", TAMPERING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    refused = passed(done.stdout) if done.returncode == 0 else 0
    wanted = PARTS["tampering"].wanted[0]
    row = {"part": "A14", "what": TAMPERING, "value": done.stdout.strip().splitlines()[-1:]}
    return [Goal(wanted.id, wanted.what, float(refused), wanted.op, wanted.goal, wanted.unit)], [row]


def passed(output: str) -> int:
    """Tests that passed, from the last line of pytest's output; those that were skipped count for nothing."""
    found = re.search(r"(\d+) passed", output)
    return int(found[1]) if found else 0


PARTS = {
    "faces": Part(
        _other("benchmarks.audits_faces", "faces_goals"),
        (
            Wanted("A1", "softmax model of 40 faces: distance of its test error from the published 7.5 %", "<=", 1.5, "points"),
            Wanted("A2", "our MIFace to ART's, largest difference of a pixel", "<=", 1e-4),
            Wanted("A3", "our MIFace to ART's at batch 40, speed", ">=", 10.0, "times"),
            Wanted("A4", "white box below transfer on INT8, worst", "<=", 2.0, "points"),
            Wanted("A5", "black box on the INT8 network, identities retrieved", ">=", 40.0, "of 40"),
            Wanted("A11", "half width of the INT8 delta of the instance gap", "<=", 0.001),
        ),
    ),
    "bridge": Part(_bridge, (Wanted("A6", "bridge to runtime, float graphs", "<=", 1e-5),)),
    "fleet": Part(
        _fleet,
        (
            Wanted("A7", "planted leaks found", ">=", 1.0),
            Wanted("A8", "null controls that raised a false alarm", "<=", 0.01),
        ),
    ),
    "membership": Part(
        _other("benchmarks.audits_membership", "membership_goals"),
        (
            Wanted("A9", "null membership AUC, distance of its interval from 0.5", "<=", 0.0),
            Wanted("A10", "LiRA with 16 shadows, lower end of TPR at 0.1 % FPR", ">=", 0.10),
        ),
    ),
    "cost": Part(
        _cost,
        (
            Wanted("A12", "standard tier, faces network and five variants, whole process", "<=", 900.0, "s"),
            Wanted("A13", "quick tier for each variant, whole process", "<=", 60.0, "s"),
        ),
    ),
    "tampering": Part(_tampering, (Wanted("A14", "ways to tamper that are refused", ">=", float(LEAST_CASES), "cases"),)),
}


if __name__ == "__main__":
    main()
