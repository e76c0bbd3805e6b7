"""One model in one run: packed by the real command, made by the peers, all judged on the same rows and timed beside FP32."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression_models import Arrays
from benchmarks.compression_peers import PeerModel, make_peers
from benchmarks.compression_runtime import NATIVE, Runner
from device_client.errors import SealiftError
from examples.packing import Packed, read_packed
from packager.data import Dataset, fit_dataset
from packager.evaluate import Evaluation, Judge, make_judge
from packager.features import check_own
from packager.feed import feed_rows
from packager.latency import LatencyRatio, measure_ratio
from packager.load import load_model
from packager.recipe import DEFAULT_BUDGET
from packager.split import split_dataset

ROOT = Path(__file__).resolve().parents[1]
PEERS_COUNTED = "onnxruntime static"
MAX_HALF_WIDTH = 0.03
_ROUNDS = 60
_PACK_TIMEOUT_S = 1800
_EMULATED_ROWS, _LEAST_EMULATED_ROWS, _EMULATED_MS = 64, 8, 150


@dataclass(frozen=True)
class Made:
    """One compressed model against FP32. ``loss``: by emulated CPU, drop of its metric there against this CPU; or why none."""

    who: str
    data: bytes | None
    stored_bytes: int | None
    evaluation: Evaluation | None
    latency: LatencyRatio | None
    note: str

    @property
    def size_bytes(self) -> int | None:
        """Raw bytes."""
        return None if self.data is None else len(self.data)

    @property
    def within(self) -> bool:
        """The point estimate is in the budget."""
        found = self.evaluation
        return found is not None and found.drop.value <= found.budget.allowed_drop


@dataclass(frozen=True)
class Row:
    """One model. ``packed``: None where the command failed; ``ours.note`` then says how. ``test``: the test rows alone."""

    id: str
    source_bytes: int
    fp32: bytes
    ours: Made
    peers: tuple[Made, ...]
    packed: Packed | None
    wall_s: float
    judge: Judge
    test: Arrays

    @property
    def is_fallback(self) -> bool:
        """What ships is the FP32 original."""
        return self.ours.data == self.fp32

    def peer(self, name: str) -> Made:
        """By name."""
        return next(made for made in self.peers if made.who == name)

    def to_json(self) -> list[dict[str, Any]]:
        """A line for FP32, ours and each peer."""
        lines = []
        for made in (self.ours, *self.peers):
            found, latency = made.evaluation, made.latency
            lines.append(
                {
                    "model": self.id,
                    "fp32 bytes": len(self.fp32),
                    "by": made.who,
                    "bytes": made.size_bytes,
                    "stored": made.stored_bytes,
                    "metric": self.judge.metric.name,
                    "value": None if found is None else round(found.estimate.value, 4),
                    "drop": None if found is None else round(found.drop.value, 5),
                    "verdict": None if found is None else found.budget.verdict.value,
                    "rows needed": None if found is None else found.budget.samples_needed,
                    "latency": None if latency is None else round(latency.ratio, 3),
                    "low": None if latency is None else round(latency.low, 3),
                    "high": None if latency is None else round(latency.high, 3),
                    "note": made.note,
                }
            )
        return lines


def measure(identity: str, model: Path, arrays: Arrays, folder: Path, *, task: str = "auto", peers: bool = True) -> Row:
    """Everything about one model.

    Args:
        identity: its name.
        model: file as published.
        arrays: rows with ``split``.
        folder: where bundles and recipes go.
        task: of the recipe.
        peers: whether to make theirs, too.

    Raises:
        SealiftError: the packager cannot even load the model or its data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{identity}.npz"
    np.savez(data, allow_pickle=False, **arrays)
    loaded = load_model(str(model), seed=0, example=lambda: {name: array[:2] for name, array in arrays.items()})
    normal = loaded.model.data
    everything = fit_dataset(arrays, loaded.model.inputs, where=identity)
    parts = split_dataset(everything, seed=0, calibration_share=0.2, validation_share=0.2, max_calibration_rows=512)
    judge = _judge(normal, parts.test, task, identity)
    feeds = feed_rows(loaded.model.inputs, parts.test.inputs)
    source = model.read_bytes()
    begun = time.perf_counter()
    packed = _pack(model, data, folder / f"{identity}.bundle", identity, task)
    wall_s = time.perf_counter() - begun
    ours = Made("sealift", None, None, None, None, packed) if isinstance(packed, str) else _ours(packed, normal, judge, feeds)
    calibration = {
        name: array[arrays["split"] == "calibration"] for name, array in arrays.items() if name not in ("y", "groups", "split")
    }
    found = make_peers(source, normal, calibration) if peers else []
    made = tuple(_peer(item, normal, judge, feeds) for item in found)
    kept = None if isinstance(packed, str) else packed
    return Row(identity, len(source), normal, ours, made, kept, wall_s, judge, dict(parts.test.inputs))


def emulated_loss(row: Row, runner: Runner) -> float:
    """Drop of the metric of what ships on an emulated CPU, against the same rows on this one.

    Raises:
        RuntimeError: it does not run there.
    """
    if row.ours.data is None:
        raise RuntimeError("nothing was packed")
    rows = min(emulated_rows(row.ours.latency), len(row.judge.test))
    picked = np.linspace(0, len(row.judge.test) - 1, rows).astype(np.int64)
    test = row.judge.test.take(picked)
    reference = {name: array[picked] for name, array in row.judge.reference.items()}
    judge = make_judge(reference, test, task=row.judge.task, seed=0, where=row.id)
    drops = [
        judge.evaluate(each.run(row.ours.data, test.inputs), allowed_drop=DEFAULT_BUDGET.accuracy_drop).drop.value
        for each in (NATIVE, runner)
    ]
    return drops[1] - drops[0]


def emulated_rows(latency: LatencyRatio | None) -> int:
    """Rows for the emulator, which is a thousand times slower than what it runs on: fewer of a slow model."""
    if latency is None or latency.original_ms <= 0:
        return _EMULATED_ROWS
    return min(_EMULATED_ROWS, max(_LEAST_EMULATED_ROWS, round(_EMULATED_MS / latency.original_ms)))


def settled_ratio(original: bytes, variant: bytes, feeds: Mapping[str, NDArray[Any]]) -> LatencyRatio:
    """Latency against FP32, over more sessions until the interval is narrow enough, up to a bound."""
    return measure_ratio(check_own(original), check_own(variant), feeds, rounds=_ROUNDS, half_width=MAX_HALF_WIDTH)


def _judge(normal: bytes, test: Dataset, task: str, where: str) -> Judge:
    return make_judge(NATIVE.run(normal, test.inputs), test, task=task, seed=0, where=where)


def _pack(model: Path, data: Path, bundle: Path, name: str, task: str) -> Packed | str:
    # An empty cache of trials: what an earlier run found would make this one quicker than it is.
    answer = run_pack(model, data, bundle, name=name, task=task, environment={"XDG_CACHE_HOME": str(bundle.with_suffix(".cache"))})
    return answer if isinstance(answer, str) else read_packed(bundle, answer)


def run_pack(
    model: Path,
    data: Path,
    bundle: Path,
    *,
    name: str,
    task: str,
    recipe: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any] | str:
    """Runs ``sealift pack`` and gives its JSON, or the error that it printed.

    Args:
        model: file.
        data: ``.npz``.
        bundle: folder to write; must not exist.
        name: of the model.
        task: ``auto`` needs no recipe; others are all that a recipe says.
        recipe: instead of that.
        environment: beside this process's own.
    """
    command = [sys.executable, "-m", "sealift", "pack", str(model), "--data", str(data), "--out", str(bundle), "--json"]
    command += ["--line", "bench", "--name", name, "--version", "1"]
    if recipe is None and task != "auto":
        recipe = bundle.with_suffix(".toml")
        recipe.write_text(f'task = "{task}"\n', encoding="utf-8")
    if recipe is not None:
        command += ["--recipe", str(recipe)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_PACK_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        return " ".join(done.stderr.split("error:")[-1].split())[:200]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _ours(packed: Packed, normal: bytes, judge: Judge, feeds: Mapping[str, NDArray[Any]]) -> Made:
    made = _judged("sealift", packed.model, normal, judge, feeds, note=str(packed.answer["variant"]))
    return dataclasses.replace(made, stored_bytes=packed.stored_bytes)


def _peer(found: PeerModel, normal: bytes, judge: Judge, feeds: Mapping[str, NDArray[Any]]) -> Made:
    if found.data is None:
        return Made(found.peer, None, None, None, None, found.note)
    return _judged(found.peer, found.data, normal, judge, feeds, note=found.note)


def _judged(who: str, data: bytes, normal: bytes, judge: Judge, feeds: Mapping[str, NDArray[Any]], *, note: str) -> Made:
    if data == normal:
        same = judge.evaluate(judge.reference, allowed_drop=DEFAULT_BUDGET.accuracy_drop)
        return Made(who, data, len(data), same, LatencyRatio(1.0, 1.0, 1.0, 0, 0.0, 0.0), f"{note}: the FP32 form itself")
    try:
        outputs = NATIVE.run(data, judge.test.inputs)
        evaluation = judge.evaluate(outputs, allowed_drop=DEFAULT_BUDGET.accuracy_drop)
    except RuntimeError as e:
        return Made(who, data, len(data), None, None, f"{note}; does not run: {e}")
    try:
        latency = settled_ratio(normal, data, feeds)
    except (SealiftError, RuntimeError) as e:
        return Made(who, data, len(data), evaluation, None, f"{note}; not timed: {' '.join(str(e).split())[:120]}")
    return Made(who, data, len(data), evaluation, latency, note)
