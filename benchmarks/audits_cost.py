"""A12 and A13: what an audit costs, as whole processes of ``sealift audit run``: the faces network and five variants of it.

    python -m benchmarks.audits --only cost

A network of 500 sigmoid units on 40 people, 56 by 46 pixels, seven pictures of each for training and three held out, by lot (the
pictures of a person were taken in some order); packed by ``sealift pack`` as INT8 with 7 and with 8 bits, dynamic INT8, FP16 and
8-bit weights. (QOperator is asked for; of such a network it keeps the QDQ form, for ONNX has no short form of Gemm.) The planted
controls are compressed by the same recipe. The standard tier gets the training function, so that shadow models and twins are
trained and compressed, too, and all that the tier asks for runs: it does not stop early, as it would by itself on this network.

There are 120 held-out pictures, three of each person. So the policy asks for three records of a class in place of five, and judges
membership at a rate of false positives of 5 % in place of 1 %, which 60 held-outs can tell.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faces_models import faces_data, faces_file, train_mlp
from benchmarks.results_file import Goal
from packager.measurements import describe_machine

ROOT = Path(__file__).resolve().parents[1]
STANDARD_S, QUICK_S = 15 * 60, 60
_TIMEOUT_S = 3600
_RECIPE = """
task = "classification"
[budget]
accuracy_drop = 0.2
ram_bytes = 1073741824
latency_ratio = 20.0
[latency]
rounds = 0
[[technique]]
name = "int8-static"
[[variant]]
[[variant.technique]]
name = "int8-static"
format = "qoperator"
weight_bits = 8
[[variant]]
[[variant.technique]]
name = "int8-dynamic"
[[variant]]
[[variant.technique]]
name = "fp16"
[[variant]]
[[variant.technique]]
name = "weight-only"
bits = 8
"""
_POLICIES = {
    "quick": 'tier = "quick"\n[decision]\nmin_records_per_class = 3\n',
    "standard": (
        'tier = "standard"\n[decision]\nmin_records_per_class = 3\nstop_early = false\n[membership]\nfpr = 0.05\ntolerated = 0.1\n'
    ),
}
_MORE = {"standard": ("--trainer", "benchmarks.faces_models:train_mlp", "--readable", str(ROOT))}


@dataclass(frozen=True)
class Timed:
    """One run of the command. ``cpu_s``: of the process and its children. ``load``: of the machine when it ended."""

    tier: str
    wall_s: float
    cpu_s: float
    verdicts: Mapping[str, str]
    load: float

    def to_json(self) -> dict[str, Any]:
        told = ", ".join(f"{name} {verdict}" for name, verdict in self.verdicts.items())
        return {
            "part": "A12",
            "tier": self.tier,
            "s": round(self.wall_s, 1),
            "CPU s": round(self.cpu_s, 1),
            "load": round(self.load, 1),
            "verdicts": told,
        }


def cost_goals() -> tuple[list[Goal], list[dict[str, Any]]]:
    """Goals and rows of A12 and A13."""
    pictures = faces_file()
    if pictures is None:
        return goals({}, variants=0, reason="SEALIFT_DATA has no faces-orl (docs/data.md)"), []
    with tempfile.TemporaryDirectory(prefix="sealift-cost-") as place:
        work = Path(place)
        variants = _pack(pictures, work)
        timed = {tier: _audit(work, tier) for tier in ("quick", "standard")}
    rows = [item.to_json() for item in timed.values()]
    machine = json.dumps(describe_machine(), sort_keys=True)
    return goals(timed, variants=len(variants), reason="not run"), [*rows, {"part": "A12", "machine": machine}]


def goals(timed: Mapping[str, Timed], *, variants: int, reason: str) -> list[Goal]:
    """A12 is a whole run; A13 shares a whole run, original and controls included, among the variants."""
    standard, quick = timed.get("standard"), timed.get("quick")
    whole = None if standard is None else standard.wall_s
    each = None if quick is None or not variants else quick.wall_s / variants
    what = f"standard tier, faces network and {variants} variants, whole process"
    return [
        Goal("A12", what, whole, "<=", float(STANDARD_S), "s", reason if whole is None else None),
        Goal(
            "A13", "quick tier for each variant, whole process", each, "<=", float(QUICK_S), "s", reason if each is None else None
        ),
    ]


def _pack(pictures: Path, work: Path) -> list[str]:
    """Trains and packs; gives the ids of the variants that ship."""
    from audits.targets import load_bundle

    data = faces_data(pictures)
    inside = data.member
    (work / "model.onnx").write_bytes(train_mlp(data.x[inside], data.y[inside], seed=0))
    np.savez(work / "audit.npz", x=data.x, y=data.y, member=inside)
    split = np.where(inside, np.where(np.arange(len(inside)) % 2 == 0, "calibration", "validation"), "test")
    np.savez(work / "pack.npz", x=data.x, y=data.y, split=split)
    (work / "recipe.toml").write_text(_RECIPE, encoding="utf-8")
    _sealift("pack", "model.onnx", "--data", "pack.npz", "--recipe", "recipe.toml", *_NAMED, "--out", "bundle", work=work)
    return [variant.id for variant in load_bundle(work / "bundle").variants]


_NAMED = ("--line", "bench", "--name", "faces", "--version", "1")


def _audit(work: Path, tier: str) -> Timed:
    out, policy = f"audit-{tier}", f"{tier}.toml"
    (work / policy).write_text(_POLICIES[tier], encoding="utf-8")
    inputs = ["--data", "audit.npz", "--original", "model.onnx", "--recipe", "recipe.toml", "--policy", policy]
    began, before = time.monotonic(), _children_s()
    _sealift("audit", "run", "bundle", *inputs, *_MORE.get(tier, ()), "--out", out, work=work)
    wall_s = time.monotonic() - began
    found = json.loads((work / out / "audit.json").read_text(encoding="utf-8"))
    verdicts = {item["id"]: f"{item['verdict']} ({item['reasons'][0]})" for item in found["subjects"]}
    timed = Timed(tier, wall_s, _children_s() - before, verdicts, os.getloadavg()[0])
    print(json.dumps(timed.to_json()), file=sys.stderr, flush=True)  # at once: the next tier takes long
    return timed


def _children_s() -> float:
    """CPU seconds of all children that have ended: what a busy machine does not stretch."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sealift(*arguments: str, work: Path) -> None:
    """Runs the command; its own message says what went wrong."""
    command = [sys.executable, "-m", "sealift", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"sealift {arguments[0]}: {done.stderr.strip()[-600:]}")
