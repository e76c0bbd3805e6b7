"""The factory case: a recurrent teacher, a student of 1/50 of it by three ways of training, packed, several times over.

Everything is compared on the windows of the 100 test engines by average precision. No threshold enters that figure; the
one that a controller would use is chosen on validation engines and reported with what it finds on test engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from examples.energy import modelled_microjoules
from examples.factory import nets
from examples.factory.engines import Engines, Windows, load_engines
from examples.options import Asked
from examples.packing import pack, write_rows
from examples.page import Page, Point
from examples.seeds import Spread, average_precision, precision_change
from examples.training import KINDS
from packager.latency import measure_ratio

PROFILE = "cortex-m7"
SHIPPED = "soft-label"
_TEACHER, _PACKED = "teacher", "student, packed"
_ROUNDS = 40
_RUN_ROWS = 512


@dataclass
class _Network:
    """One network over the seeds: its scores on test windows, thresholds by validation engines, and its files."""

    name: str
    parameters: int
    scores: list[NDArray[np.float64]]
    thresholds: list[float]
    files: list[bytes]
    stored: list[int]


def study(asked: Asked) -> tuple[dict[str, Any], Page]:
    """Runs it."""
    engines = load_engines(asked.data)
    found: dict[str, _Network] = {}
    for seed in range(asked.seeds):
        _one_seed(asked, engines, seed, found)
    asked.say("intervals and timing")
    teacher, packed = found[_TEACHER], found[_PACKED]
    feeds = {"x": engines.test.rows.x[:1]}
    first = check_model(teacher.files[0])
    times = {name: measure_ratio(first, check_model(item.files[0]), feeds, rounds=_ROUNDS) for name, item in found.items()}
    labels, groups = engines.test.rows.y, engines.test.engines
    to_teacher = {name: _change(teacher, item, labels, groups) for name, item in found.items() if item is not teacher}
    plain = found["student, plain"]
    gains = {kind: _change(plain, found[f"student, {kind}"], labels, groups) for kind in KINDS if kind != "plain"}
    rows = []
    for name, item in found.items():
        precision = [average_precision(scores, labels) for scores in item.scores]
        recall, alarms = _at_threshold(item, labels)
        rows.append(
            {
                "name": name,
                "parameters": item.parameters,
                "bytes": len(item.files[0]),
                "stored_bytes": item.stored[0],
                "average_precision": round(float(np.mean(precision)), 5),
                "each": [round(value, 5) for value in precision],
                "to_teacher": to_teacher[name].to_json() if name in to_teacher else None,
                "recall_at_threshold": round(recall, 5),
                "false_alarms_at_threshold": round(alarms, 5),
                "time_ratio": times[name].to_json(),
                "microjoules": modelled_microjoules(item.files[0], profile=PROFILE),
            }
        )
    results: dict[str, Any] = {
        "study": "factory",
        "data": "C-MAPSS FD001, fault within 30 cycles; 80 engines fit, 20 validate, the official 100 test",
        "seeds": asked.seeds,
        "networks": rows,
        "teacher_average_precision": rows[0]["average_precision"],
        "times_fewer_parameters": round(teacher.parameters / packed.parameters, 2),
        "times_smaller": round(len(teacher.files[0]) / len(packed.files[0]), 2),
        "times_smaller_stored": round(len(teacher.files[0]) / max(packed.stored), 2),
        "below_teacher": round(-to_teacher[_PACKED].mean, 5),
        "to_teacher": to_teacher[_PACKED].to_json(),
        "gain_over_plain": {kind: gain.to_json() for kind, gain in gains.items()},
        "bundle": str((asked.shelf.folder / "bundles" / "student-0").resolve()),
        "pack_model": str((asked.shelf.folder / "models" / f"student-{SHIPPED}-0.onnx").resolve()),
        "pack_data": str((asked.shelf.folder / "data" / "windows-0.npz").resolve()),
    }
    return results, _page(results)


def _one_seed(asked: Asked, engines: Engines, seed: int, found: dict[str, _Network]) -> None:
    shelf, fit = asked.shelf, engines.fit.rows
    asked.say(f"seed {seed}: teacher")
    teacher = shelf.trained("teacher", nets.teacher, fit, nets.TEACHER_PLAN, seed=seed)
    _add(found, _TEACHER, teacher.parameters_shipped, shelf.exported(f"teacher-{seed}", teacher, fit.x), engines)
    for kind in KINDS:
        asked.say(f"seed {seed}: student, {kind}")
        taught_by = None if kind == "plain" else teacher
        net = shelf.trained(f"student-{kind}", nets.student, fit, nets.STUDENT_PLAN, seed=seed, kind=kind, teacher=taught_by)
        file = shelf.exported(f"student-{kind}-{seed}", net, fit.x)
        _add(found, f"student, {kind}", net.parameters_shipped, file, engines)
        if kind == SHIPPED:
            asked.say(f"seed {seed}: sealift pack")
            packed = pack(file, _pack_data(asked, seed, engines), shelf.folder / "bundles" / f"student-{seed}", name="factory")
            _add(found, _PACKED, net.parameters_shipped, packed.model, engines, stored_bytes=packed.stored_bytes)


def _pack_data(asked: Asked, seed: int, engines: Engines) -> Path:
    """Windows of fitted engines calibrate; the command keeps whole engines apart and checks it."""
    parts: tuple[tuple[str, Windows], ...] = (
        ("calibration", engines.fit),
        ("validation", engines.validation),
        ("test", engines.test),
    )
    return write_rows(
        asked.shelf.folder / "data" / f"windows-{seed}.npz",
        x=np.concatenate([part.rows.x for _, part in parts]),
        y=np.concatenate([part.rows.y for _, part in parts]),
        groups=np.concatenate([part.engines for _, part in parts]),
        split=np.concatenate([np.full(len(part.rows), name) for name, part in parts]),
    )


def _add(
    found: dict[str, _Network], name: str, parameters: int, file: Path | bytes, engines: Engines, *, stored_bytes: int | None = None
) -> None:
    data = file if isinstance(file, bytes) else file.read_bytes()
    item = found.setdefault(name, _Network(name, parameters, [], [], [], []))
    item.scores.append(run_scores(data, engines.test.rows.x))
    item.thresholds.append(best_threshold(run_scores(data, engines.validation.rows.x), engines.validation.rows.y))
    item.files.append(data)
    item.stored.append(len(data) if stored_bytes is None else stored_bytes)


def run_scores(file: bytes, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Score of "fault" over "no fault" for each window, by the device's runtime."""
    with open_session(check_model(file)) as session:
        name = session.inputs[0].name
        parts = [next(iter(session.run({name: x[at : at + _RUN_ROWS]}).values())) for at in range(0, len(x), _RUN_ROWS)]
    logits = np.concatenate(parts).astype(np.float64)
    return np.asarray(logits[:, 1] - logits[:, 0])


def best_threshold(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The score from which F1 is highest on these rows."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + labels.sum())
    return float(scores[order][int(f1.argmax())])


def _at_threshold(item: _Network, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Recall and rate of false alarms on the test windows, means over seeds."""
    alarms = [scores >= threshold for scores, threshold in zip(item.scores, item.thresholds, strict=True)]
    recall = float(np.mean([alarm[labels == 1].mean() for alarm in alarms]))
    return recall, float(np.mean([alarm[labels == 0].mean() for alarm in alarms]))


def _change(before: _Network, after: _Network, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Spread:
    return precision_change(np.stack(before.scores), np.stack(after.scores), labels, groups)


def _page(results: dict[str, Any]) -> Page:
    rows, points = [], []
    for row in results["networks"]:
        change = "-"
        if row["to_teacher"]:
            low, high = row["to_teacher"]["interval"]
            change = f"{row['to_teacher']['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
        energy = "-" if row["microjoules"] is None else f"{row['microjoules']:.3g}"
        cells = (row["name"], str(row["parameters"]), str(row["bytes"]), f"{row['average_precision']:.3f}", change)
        found = (f"{row['recall_at_threshold']:.3f}", f"{row['false_alarms_at_threshold']:.3f}")
        rows.append((*cells, *found, f"{row['time_ratio']['ratio']:.3f}", energy))
        points.append(Point(row["name"], row["bytes"], row["average_precision"], min(row["each"]), max(row["each"])))
    head = ("network", "parameters", "bytes", "average precision", "to teacher", "recall", "false alarms", "time", "energy, uJ")
    return Page(
        "Faults foreseen on a controller (C-MAPSS FD001)", "average precision", head, tuple(rows), tuple(points), _remarks(results)
    )


def _remarks(results: dict[str, Any]) -> tuple[str, ...]:
    gains = results["gain_over_plain"]
    told = []
    for kind, gain in gains.items():
        low, high = gain["interval"]
        verdict = "helped" if low > 0 else "hurt" if high < 0 else "made no difference that these engines could show"
        told.append(f"Distillation by {kind}: {gain['mean']:+.3f} [{low:+.3f}, {high:+.3f}] against labels alone: it {verdict}.")
    return (
        f"{results['seeds']} seeds; windows of one engine are never in two parts, and intervals resample whole engines and seeds.",
        f"Packed student: 1/{results['times_fewer_parameters']:.0f} of the teacher's parameters, "
        f"{results['times_smaller']:.1f} times smaller, {-results['below_teacher']:+.3f} average precision against the teacher.",
        *told,
        "Recall and false alarms are at the threshold of highest F1 on validation engines, which live to the end: on the test "
        "engines, cut short, it is no optimum.",
    )
