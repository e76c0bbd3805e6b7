"""Goals A1 to A5 and A11 of the audits: face models attacked by the audit's own code.

    python -m benchmarks.audits_faces [--only A1,A5]

Reads the pictures of ``SEALIFT_DATA/faces-orl``; without them every goal is there, unmeasured, with that reason. Times are
of one thread; ratios are of one run. See ``faces_models`` for how the networks are trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from audits.attacked import attack
from audits.blackbox.nes import invert_by_scores
from audits.blackbox.oracle import Oracle
from audits.data import AuditData
from audits.family import Bench
from audits.inversion import InputRange, ascend_margin, ascend_probability
from audits.policy import Policy, load_policy
from audits.reference.miface import miface_reference
from audits.retrieval.identity import Gallery, make_gallery, retrieve
from audits.retrieval.masking import measure_masking
from audits.retrieval.scene import Scene, make_scene
from audits.retrieval.settings import RetrievalSettings, read_settings
from audits.retrieval.swap_split import attack_twins, compare, split_members
from audits.targets import ORIGINAL, Subject
from audits.whitebox import WhiteBox
from benchmarks.faces_models import KINDS, PEOPLE, FacesTrainer, faces_data, faces_file, load_faces, seven_of_ten
from benchmarks.results_file import Goal, Results
from device_client.inference.runtime import import_runtime
from device_client.inference.walker import CheckedModel, check_model

UNIT = InputRange(0.0, 1.0, "contract")
PUBLISHED_ERROR = 7.5  # per cent, softmax regression, Fredrikson 2015
SPLITS = 5
WHAT = {
    "A1": ("error of the softmax model, distance from the published 7.5 %", "<=", 1.5, "points"),
    "A1-retrieved": ("people retrieved from it by the pictures that trained, worst split", ">=", 40.0, "of 40"),
    "A1-time": ("whole attack on it", "<", 5.0, "s"),
    "A2": ("largest difference of our MIFace from ART's, three networks", "<=", 1e-4, ""),
    "A3": ("slowest ratio of ART's time to ours, 40 classes in one batch", ">=", 10.0, "times"),
    "A4": ("white-box figure of INT8 QDQ below transfer, worst network", "<=", 2.0, "points"),
    "A5": ("people retrieved from the INT8 MLP by black box", ">=", 40.0, "of 40"),
    "A5-queries": ("most answers for one person", "<=", 2000.0, ""),
    "A11": ("half width of the INT8 swap-split delta, MLP", "<=", 0.001, ""),
}


def main() -> None:
    """Measures, prints the table, writes ``results/audits_faces.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="goals by id, with commas")
    only = tuple(name for name in parser.parse_args().only.split(",") if name)
    results = Results("audits_faces")
    results.goals += faces_goals(only=only, rows=results.rows)
    print(results.table())
    print(f"\n{results.write()}")


def faces_goals(*, only: tuple[str, ...] = (), rows: list[dict[str, Any]] | None = None) -> list[Goal]:
    """All goals of this file; those outside ``only``, or without pictures, are unmeasured and say why."""
    path = faces_file()
    groups: dict[str, Callable[[Path, list[dict[str, Any]]], dict[str, float]]] = {
        "A1": published,
        "A2": against_art,
        "A3": against_art,
        "A4": masking,
        "A5": black_box,
        "A11": swap_split,
    }
    values: dict[str, float] = {}
    found = rows if rows is not None else []
    wanted = [name for name in groups if not only or name in only]
    if path is not None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        for measure in dict.fromkeys(groups[name] for name in wanted):
            values |= measure(path, found)
        torch.set_num_threads(before)
    reason = "SEALIFT_DATA has no faces-orl" if path is None else "left out by --only"
    return [
        Goal(name, what, values.get(name), op, goal, unit, None if name in values else reason)
        for name, (what, op, goal, unit) in WHAT.items()
    ]


def published(path: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """A1: the published setting: full size, softmax regression, seven of ten pictures, mean of some splits.

    Retrieved among averages of the pictures that trained, as in the paper; beside it, among averages of the unseen three.
    """
    x, y = load_faces(path, halved=False)
    errors, hits, times = [], [], []
    for seed in range(SPLITS):
        data = faces_data(path, seed=seed, halved=False)
        model = check_model(FacesTrainer("softmax").train(x[data.member], y[data.member], seed=seed), where="softmax")
        trained_on = _gallery(AuditData(data.x, data.y, ~data.member, data.digest))
        began = time.perf_counter()
        with WhiteBox(model) as box:
            start = torch.from_numpy(np.repeat(x.mean(axis=0, keepdims=True), PEOPLE, axis=0))
            images = ascend_margin(box.logits, start, torch.arange(PEOPLE), steps=30, rate=0.0125, bounds=UNIT).numpy()
            times.append(time.perf_counter() - began)
            right = box.probabilities(x).argmax(axis=1) == y
        errors.append(100.0 * float(1.0 - right[~data.member].mean()))
        hits.append(retrieve(images, trained_on).retrieved)
        unseen = retrieve(images, _gallery(data)).retrieved
        rows.append({"split": seed, "test error %": errors[-1], "retrieved": hits[-1], "by unseen": unseen, "attack s": times[-1]})
    return {
        "A1": abs(float(np.mean(errors)) - PUBLISHED_ERROR),
        "A1-retrieved": float(min(hits)),
        "A1-time": max(times),
    }


def against_art(path: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """A2 and A3: the same steps by ART and by us, all people in one batch."""
    data = faces_data(path)
    start = np.repeat(data.x.mean(axis=0, keepdims=True), PEOPLE, axis=0)
    steps, rate = {"softmax": 20, "mlp": 6, "cnn": 2}, 0.1
    differences, ratios = [], []
    for kind in KINDS:
        with WhiteBox(trained(path, kind)) as box:
            miface_reference(box, start, bounds=UNIT, steps=1, rate=rate)  # imports are not the attack
            began = time.perf_counter()
            theirs = miface_reference(box, start, bounds=UNIT, steps=steps[kind], rate=rate)
            between = time.perf_counter()
            ours = _miface(box, start, steps=steps[kind], rate=rate)
            slow, fast = between - began, time.perf_counter() - between
        differences.append(float(np.abs(ours - theirs).max()))
        ratios.append(slow / fast)
        rows.append({"network": kind, "difference": differences[-1], "ART s": slow, "ours s": fast, "ratio": ratios[-1]})
    return {"A2": max(differences), "A3": min(ratios)}


def masking(path: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """A4: on the INT8 files, the portfolio's figure against the original's images, and what the naive output would say."""
    scene, policy = _scene(path), _policy()
    worst = -100.0
    for kind in KINDS:
        original = attack(trained(path, kind), scene.data, start=scene.start, bounds=UNIT, policy=policy)
        model = quantised(path, kind)
        attacked = attack(model, scene.data, start=scene.start, bounds=UNIT, policy=policy, original=original)
        found = measure_masking(model, attacked, scene, original=original)
        transfer = found.transfer if found.transfer is not None else 0.0
        worst = max(worst, 100.0 * (transfer - found.own))
        row = {"network": kind, "INT8 own": found.own, "INT8 naive": found.naive, "transfer": found.transfer}
        for item in attacked.own:
            row[f"{item.attack} retrieved"] = retrieve(item.best_images(), _gallery(scene.data)).retrieved
        rows.append(row)
    return {"A4": worst}


def black_box(path: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """A5: scores of the exact INT8 bytes alone, also on the other networks."""
    scene, settings = _scene(path), _settings()
    values: dict[str, float] = {}
    for kind in KINDS:
        with Oracle(quantised(path, kind), probe=scene.start) as oracle:
            began = time.perf_counter()
            found = invert_by_scores(oracle, start=scene.start, bounds=UNIT, settings=settings.black_box, seed=scene.policy.seed)
            took = time.perf_counter() - began
        best = found.images[found.confidence.argmax(axis=0), np.arange(PEOPLE)]
        hits = retrieve(best, _gallery(scene.data)).retrieved
        most = float(found.queries.max())
        rows.append(
            {
                "INT8 network": kind,
                "retrieved": hits,
                "answers per person": oracle.asked / PEOPLE,
                "most": most,
                "at 0.95": float((found.confidence.max(axis=0) >= settings.black_box_stop).mean()),
                "s": took,
            }
        )
        if kind == "mlp":
            values = {"A5": float(hits), "A5-queries": most}
    return values


def swap_split(path: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """A11: two twins of the MLP on half of the training pictures each, and their INT8 twins."""
    scene, settings = _scene(path), _settings()
    halves = split_members(scene)
    trainer = FacesTrainer("mlp")
    plain = [trainer.train(side.x, side.y, seed=scene.policy.seed) for side in (halves.first, halves.second)]
    small = [quantise(model, side.x) for model, side in zip(plain, (halves.first, halves.second), strict=True)]
    first, second = (check_model(model, where="twin") for model in plain)
    original = attack_twins((first, second), scene, settings)
    variant = attack_twins(
        (check_model(small[0], where="twin"), check_model(small[1], where="twin")), scene, settings, original=original
    )
    found = compare({ORIGINAL: original, "int8": variant}, halves.pools, scene, original=ORIGINAL, tolerated=settings.max_gap)
    delta = found["int8"].delta_interval
    if delta is None:
        raise RuntimeError("a variant has a delta")
    for name, gap in found.items():
        rows.append(
            {
                "twins": name,
                "attack": gap.attack,
                "gap": gap.gap,
                "low": gap.interval[0],
                "high": gap.interval[1],
                "delta": gap.delta,
                "delta low": None if gap.delta_interval is None else gap.delta_interval[0],
                "delta high": None if gap.delta_interval is None else gap.delta_interval[1],
            }
        )
    return {"A11": (delta[1] - delta[0]) / 2.0}


@cache
def trained(path: Path, kind: str) -> CheckedModel:
    """The network of one kind at half size, trained on seven of ten pictures."""
    x, y = load_faces(path)
    member = seven_of_ten(y, seed=0)
    return check_model(FacesTrainer(kind).train(x[member], y[member], seed=0), where=kind)


@cache
def quantised(path: Path, kind: str) -> CheckedModel:
    """Its INT8 twin: static QDQ, per channel, calibrated on training pictures."""
    data = faces_data(path)
    return check_model(quantise(trained(path, kind).data, data.x[data.member]), where=f"{kind} int8")


def quantise(model: bytes, x: np.ndarray[Any, Any]) -> bytes:
    """Static QDQ by onnxruntime's own tool."""
    import_runtime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter([{"x": x[index : index + 1]} for index in range(0, len(x), 3)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    with TemporaryDirectory(prefix="sealift-bench-") as name:
        folder = Path(name)
        (folder / "a.onnx").write_bytes(model)
        quantize_static(
            folder / "a.onnx",
            folder / "q.onnx",
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return (folder / "q.onnx").read_bytes()


def _policy() -> Policy:
    """The built-in policy with one restart and fewer steps: the goals ask for images and not for a verdict."""
    policy = load_policy()
    inversion = replace(policy.inversion, restarts=1, probability_steps=100, cross_entropy_steps=60)
    return replace(policy, inversion=inversion, decision=replace(policy.decision, min_records_per_class=3))


def _settings() -> RetrievalSettings:
    return read_settings({}, where="defaults")


def _scene(path: Path) -> Scene:
    original = Subject(ORIGINAL, trained(path, "mlp"), (0.0, 1.0))
    return make_scene(Bench(original, (), faces_data(path), _policy(), None, None, lambda _: None))


def _gallery(data: AuditData) -> Gallery:
    gallery = make_gallery(data, classes=PEOPLE)
    if gallery is None:
        raise RuntimeError("every person has held-out pictures")
    return gallery


def _miface(box: WhiteBox, start: np.ndarray[Any, Any], *, steps: int, rate: float) -> np.ndarray[Any, Any]:
    images: np.ndarray[Any, Any] = ascend_probability(
        lambda x: functional.softmax(box.logits(x), dim=1),
        torch.from_numpy(start),
        torch.arange(PEOPLE),
        steps=steps,
        rate=rate,
        bounds=UNIT,
    ).numpy()
    return images


if __name__ == "__main__":
    main()
