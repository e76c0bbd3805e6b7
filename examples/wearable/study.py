"""The wearable case, from training to the packed bundle, several times over.

For every seed: the baseline, a student trained on labels alone, by soft labels and by the baseline's inner representation; the
soft-label student is packed. Packed and FP32 networks meet the same 4500 beats. Abnormal is what scores higher than
normal: no threshold is chosen at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from examples.energy import modelled_microjoules
from examples.options import Asked
from examples.packing import Packed, pack, write_rows
from examples.page import Page, Point
from examples.seeds import Spread, paired_change
from examples.training import KINDS, Rows
from examples.wearable import nets
from examples.wearable.beats import Beats, load_beats
from packager.latency import LatencyRatio, measure_ratio

PROFILE = "watch"
SHIPPED = "soft-label"
_BASELINE, _BASELINE_PACKED, _PACKED = "baseline", "baseline, packed", "student, packed"
_ROUNDS = 40
_RUN_ROWS = 512


@dataclass
class _Network:
    """One network over the seeds: correct or not for each test beat, and its files."""

    name: str
    parameters: int
    right: list[NDArray[np.float64]]
    sizes: list[int]
    stored: list[int]
    files: list[bytes]

    def rates(self, y: NDArray[np.int64]) -> tuple[float, float, float]:
        """Accuracy, recall of abnormal beats, and specificity, means over seeds."""
        right = np.mean(self.right, axis=0)
        return float(right.mean()), float(right[y == 1].mean()), float(right[y == 0].mean())


def study(asked: Asked) -> tuple[dict[str, Any], Page]:
    """Runs it."""
    beats = load_beats(asked.data)
    found: dict[str, _Network] = {}
    for seed in range(asked.seeds):
        _one_seed(asked, beats, seed, found)
    asked.say("timing")
    first, last = found[_BASELINE].files[0], found[_PACKED].files[0]
    feeds = {"x": beats.test.x[:1]}
    times = {
        name: measure_ratio(check_model(first), check_model(item.files[0]), feeds, rounds=_ROUNDS) for name, item in found.items()
    }
    energy = {name: modelled_microjoules(item.files[0], profile=PROFILE) for name, item in found.items()}
    abnormal = beats.test.y == 1
    recall = {
        name: paired_change(np.stack(found[_BASELINE].right)[: len(item.right), abnormal], np.stack(item.right)[:, abnormal])
        for name, item in found.items()
    }
    before, after = energy[_BASELINE], energy[_PACKED]
    results = {
        "study": "wearable",
        "data": "ECG5000, one patient (record chf07); 500 beats train, 4500 test; the archive's own division",
        "seeds": asked.seeds,
        "networks": [_row_json(item, beats, times[name], recall[name], energy[name]) for name, item in found.items()],
        "less_time": round(1 - times[_PACKED].ratio, 4),
        "times_smaller": round(len(first) / len(last), 2),
        "times_smaller_stored": round(len(first) / max(found[_PACKED].stored), 2),
        "less_energy": None if before is None or after is None else round(1 - after / before, 4),
        "energy": "modelled" if before is not None else "an operator has no count",
        "recall_change": recall[_PACKED].to_json(),
        "bundle": str((asked.shelf.folder / "bundles" / "student-0").resolve()),
        "pack_model": str((asked.shelf.folder / "models" / f"student-{SHIPPED}-0.onnx").resolve()),
        "pack_data": str((asked.shelf.folder / "data" / "beats-0.npz").resolve()),
    }
    return results, _page(results, found, beats)


def _one_seed(asked: Asked, beats: Beats, seed: int, found: dict[str, _Network]) -> None:
    shelf = asked.shelf
    fit, held = beats.divided(seed)
    asked.say(f"seed {seed}: baseline")
    base = shelf.trained("baseline", nets.baseline, fit, nets.BASELINE_PLAN, seed=seed)
    path = shelf.exported(f"baseline-{seed}", base, fit.x)
    _add(found, _BASELINE, base.parameters_shipped, path.read_bytes(), beats)
    data = _pack_data(asked, seed, fit, held, beats.test)
    for kind in KINDS:
        asked.say(f"seed {seed}: student, {kind}")
        teacher = None if kind == "plain" else base
        net = shelf.trained(f"student-{kind}", nets.student, fit, nets.STUDENT_PLAN, seed=seed, kind=kind, teacher=teacher)
        file = shelf.exported(f"student-{kind}-{seed}", net, fit.x)
        _add(found, f"student, {kind}", net.parameters_shipped, file.read_bytes(), beats)
        if kind == SHIPPED:
            asked.say(f"seed {seed}: sealift pack")
            packed = pack(file, data, shelf.folder / "bundles" / f"student-{seed}", name="wearable")
            _add(found, _PACKED, net.parameters_shipped, packed.model, beats, packed=packed)
    if seed == 0:
        asked.say("seed 0: sealift pack of the baseline, for comparison")
        packed = pack(path, data, shelf.folder / "bundles" / "baseline-0", name="wearable-baseline")
        _add(found, _BASELINE_PACKED, base.parameters_shipped, packed.model, beats, packed=packed)


def _pack_data(asked: Asked, seed: int, fit: Rows, held: Rows, test: Rows) -> Any:
    parts = (("calibration", fit), ("validation", held), ("test", test))
    return write_rows(
        asked.shelf.folder / "data" / f"beats-{seed}.npz",
        x=np.concatenate([rows.x for _, rows in parts]),
        y=np.concatenate([rows.y for _, rows in parts]),
        split=np.concatenate([np.full(len(rows), name) for name, rows in parts]),
    )


def _add(
    found: dict[str, _Network], name: str, parameters: int, file: bytes, beats: Beats, *, packed: Packed | None = None
) -> None:
    item = found.setdefault(name, _Network(name, parameters, [], [], [], []))
    item.right.append((run_classes(file, beats.test.x) == beats.test.y).astype(np.float64))
    item.sizes.append(len(file))
    item.stored.append(len(file) if packed is None else packed.stored_bytes)
    item.files.append(file)


def run_classes(file: bytes, x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class of each row, by the device's runtime."""
    with open_session(check_model(file)) as session:
        name = session.inputs[0].name
        parts = [next(iter(session.run({name: x[at : at + _RUN_ROWS]}).values())) for at in range(0, len(x), _RUN_ROWS)]
    return np.asarray(np.concatenate(parts).argmax(axis=1), dtype=np.int64)


def _row_json(item: _Network, beats: Beats, time: LatencyRatio, recall: Spread, energy: float | None) -> dict[str, object]:
    accuracy, abnormal, normal = item.rates(beats.test.y)
    return {
        "name": item.name,
        "parameters": item.parameters,
        "bytes": item.sizes[0],
        "stored_bytes": item.stored[0],
        "accuracy": round(accuracy, 5),
        "recall": round(abnormal, 5),
        "specificity": round(normal, 5),
        "recall_change": recall.to_json(),
        "time_ratio": time.to_json(),
        "microjoules": energy,
    }


def _page(results: dict[str, Any], found: dict[str, _Network], beats: Beats) -> Page:
    y = beats.test.y
    rows, points = [], []
    for row, item in zip(results["networks"], found.values(), strict=True):
        change, (low, high) = row["recall_change"]["mean"], row["recall_change"]["interval"]
        energy = "-" if row["microjoules"] is None else f"{row['microjoules']:.3g}"
        rows.append(
            (
                item.name,
                str(item.parameters),
                str(row["bytes"]),
                f"{row['accuracy']:.4f}",
                f"{row['recall']:.4f}",
                f"{row['specificity']:.4f}",
                f"{100 * change:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]",
                f"{row['time_ratio']['ratio']:.3f}",
                energy,
            )
        )
        each = [float(right[y == 1].mean()) for right in item.right]
        points.append(Point(item.name, row["bytes"], float(np.mean(each)), min(each), max(each)))
    head = ("network", "parameters", "bytes", "accuracy", "recall", "specificity", "recall change, points", "time", "energy, uJ")
    return Page(
        "Heartbeat anomalies on a wearable (ECG5000)",
        "recall of abnormal beats",
        head,
        tuple(rows),
        tuple(points),
        _remarks(results),
    )


def _remarks(results: dict[str, Any]) -> tuple[str, ...]:
    by_name = {row["name"]: row for row in results["networks"]}
    plain, soft = by_name["student, plain"]["accuracy"], by_name["student, soft-label"]["accuracy"]
    inner = by_name["student, representation"]["accuracy"]
    saved = "not modelled" if results["less_energy"] is None else f"{100 * results['less_energy']:.0f} % less (modelled, {PROFILE})"
    return (
        f"{results['seeds']} seeds. One patient: nothing here says how it does on another heart.",
        f"Packed student against the FP32 baseline: {100 * results['less_time']:.1f} % less time, "
        f"{results['times_smaller']:.1f} times smaller, energy {saved}.",
        f"Soft labels changed the student's accuracy by {100 * (soft - plain):+.2f} points against labels alone, the inner "
        f"representation by {100 * (inner - plain):+.2f}.",
        "Intervals resample seeds and beats together; with so few seeds the seed part is rough.",
    )
