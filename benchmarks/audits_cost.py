"""A12 and A13: what an audit costs, as whole processes of ``sealift audit run``: the faces network and five variants of it.

    python -m benchmarks.audits --only cost

A network of 500 sigmoid units on 40 people, 56 by 46 pixels, seven pictures of each for training and three held out; packed by
``sealift pack`` as INT8 with 7 and with 8 bits, dynamic INT8, FP16 and 8-bit weights. (QOperator is asked for; of such a network
it keeps the QDQ form, for ONNX has no short form of Gemm.) Three held-outs are below the built-in minimum of
five, so the policy asks for three here; nothing else in it differs. The planted controls are compressed by the same recipe.
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
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.results_file import Goal
from packager.export import export_module
from packager.measurements import describe_machine

ROOT = Path(__file__).resolve().parents[1]
STANDARD_S, QUICK_S = 15 * 60, 60
_MEMBERS, _PEOPLE, _PIXELS = 7, 40, (56, 46)
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
_POLICY = 'tier = "{tier}"\n[decision]\nmin_records_per_class = 3\n'

Floats = NDArray[np.float32]


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
    folder = os.environ.get("SEALIFT_DATA")
    if not folder or not Path(folder, "faces-orl", "orl_faces.npz").is_file():
        return goals({}, variants=0, reason="SEALIFT_DATA has no faces-orl (docs/data.md)"), []
    with tempfile.TemporaryDirectory(prefix="sealift-cost-") as place:
        work = Path(place)
        variants = _pack(Path(folder), work)
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


def faces(folder: Path) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Pictures as (400, 2576) in [0, 1], people from 0, and who is a member: seven of each, drawn by lot.

    By lot, for the pictures of a person were taken in some order: with the first seven as members even a network with shuffled
    weights seems to know them, and every verdict is INCONCLUSIVE.
    """
    with np.load(folder / "faces-orl" / "orl_faces.npz", allow_pickle=False) as found:
        images, person = found["images"].astype(np.float32) / 255, found["subject"].astype(np.int64)
    halved = images.reshape(len(images), _PIXELS[0], 2, _PIXELS[1], 2).mean(axis=(2, 4), dtype=np.float64)
    x = halved.reshape(len(images), -1).astype(np.float32)
    y = person - person.min()
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(np.flatnonzero(y == label)) for label in range(_PEOPLE)])
    return x[order], y[order], np.tile(np.arange(10) < _MEMBERS, _PEOPLE)


def train_faces(x: Floats, y: NDArray[np.int64], *, epochs: int = 150) -> bytes:
    """The network of Fredrikson 2015 with one hidden layer, as ONNX with a softmax."""

    def build() -> tuple[nn.Module, torch.Tensor]:
        net = nn.Sequential(nn.Linear(x.shape[1], 500), nn.Sigmoid(), nn.Linear(500, _PEOPLE))
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(32):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
                optimiser.step()
        return nn.Sequential(net, nn.Softmax(dim=1)).eval(), inputs[:2]

    return export_module(build, where="faces", seed=0, example=dict)


def _pack(folder: Path, work: Path) -> list[str]:
    """Trains and packs; gives the ids of the variants that ship."""
    from audits.targets import load_bundle

    x, y, member = faces(folder)
    (work / "model.onnx").write_bytes(train_faces(x[member], y[member]))
    name = _input_name(work / "model.onnx")
    np.savez(work / "audit.npz", x=x, y=y, member=member)
    split = np.where(member, np.where(np.arange(len(x)) % 10 < 5, "calibration", "validation"), "test")
    np.savez(work / "pack.npz", **{name: x, "y": y, "split": split})
    (work / "recipe.toml").write_text(_RECIPE, encoding="utf-8")
    _sealift("pack", "model.onnx", "--data", "pack.npz", "--recipe", "recipe.toml", *_NAMED, "--out", "bundle", work=work)
    return [variant.id for variant in load_bundle(work / "bundle").variants]


_NAMED = ("--line", "bench", "--name", "faces", "--version", "1")


def _audit(work: Path, tier: str) -> Timed:
    out, policy = f"audit-{tier}", f"{tier}.toml"
    (work / policy).write_text(_POLICY.format(tier=tier), encoding="utf-8")
    inputs = ["--data", "audit.npz", "--original", "model.onnx", "--policy", policy, "--recipe", "recipe.toml"]
    began, before = time.monotonic(), _children_s()
    _sealift("audit", "run", "bundle", *inputs, "--out", out, work=work)
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


def _input_name(path: Path) -> str:
    from device_client.inference.walker import check_model

    return check_model(path.read_bytes(), where=str(path)).inputs[0].name


def _sealift(*arguments: str, work: Path) -> None:
    """Runs the command; its own message says what went wrong."""
    command = [sys.executable, "-m", "sealift", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"sealift {arguments[0]}: {done.stderr.strip()[-600:]}")
