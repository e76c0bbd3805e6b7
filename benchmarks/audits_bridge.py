"""A6: the bridge computes what the runtime computes, on other people's networks and on twelve kinds made here, in every form.

    python -m benchmarks.audits --only bridge

Half of the inputs are natural, half are noise over the same range; both sides get one record at a time. Float graphs are
compared relative to max(1, largest output); quantised ones in steps of the output's own quantiser, or of 1/255 of the
largest output where the output itself is not quantised. Every output is compared. Some three minutes on one core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audits.bridge.graph import BridgeError, Graph, parse_graph
from audits.bridge.parity import ParityBounds, measure_parity
from audits.bridge.program import TorchProgram
from audits.bridge.tap import Tail, Tap, find_tap
from benchmarks.audits_nets import NETWORKS
from benchmarks.compression_models import CASES
from benchmarks.results_file import Goal
from device_client.errors import SealiftError
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from packager.codebook import Codebook
from packager.data import Dataset
from packager.features import check_own
from packager.load import load_model
from packager.prune_onnx.config import PruneChannels
from packager.ptq.dynamic import Int8Dynamic
from packager.ptq.fp16 import Fp16
from packager.ptq.static import Int8Static
from packager.ptq.weight_only import WeightOnly
from packager.technique import Compressed, TechniqueContext, TechniqueStep, apply_technique

Floats = NDArray[np.float32]
FLOAT_BOUND, QUANTA_BOUND, LEAST_COMBINATIONS = 1e-5, 2.0, 12
NAMED = ("kws", "resnet8", "ad01", "mnist", "ultraface", "squeezenet")
SIGNED = "static QDQ, signed"  # where the CPU multiplies no signed bytes, the runtime computes it in floats, and rounds as those do
FORMS: dict[str, TechniqueStep | None] = {
    "FP32": None,
    "static QDQ per tensor": TechniqueStep("int8-static", Int8Static(per_channel=False)),
    "static QDQ per channel": TechniqueStep("int8-static", Int8Static()),
    SIGNED: TechniqueStep("int8-static", Int8Static(activations="s8", reduce_range=False)),
    "QOperator": TechniqueStep("int8-static", Int8Static(format="qoperator")),
    "dynamic": TechniqueStep("int8-dynamic", Int8Dynamic()),
    "weights in 8 bits": TechniqueStep("weight-only", WeightOnly(bits=8)),
    "weights in 4 bits": TechniqueStep("weight-only", WeightOnly(bits=4, block=16)),
    "FP16": TechniqueStep("fp16", Fp16()),
    "channels pruned": TechniqueStep("prune-channels", PruneChannels(ratio=0.25)),
    "codebook": TechniqueStep("codebook", Codebook(min_elements=256)),
}
_ROWS = 16  # of each kind
_BOUNDS = ParityBounds(float_absolute=FLOAT_BOUND, quanta=QUANTA_BOUND, quantised_cap=float("inf"))


@dataclass(frozen=True)
class Compared:
    """One model in one form.

    Attributes:
        model, form: what it is.
        named: one of the six of A6.
        quantised: ``difference`` is in quanta, else relative.
        difference: the worst over rows and outputs; None where it was not compared.
        note: why not: ``not made`` by the packager, or ``not translated`` by the bridge.
    """

    model: str
    form: str
    named: bool
    quantised: bool
    difference: float | None
    note: str = ""

    @property
    def holds(self) -> bool:
        """Compared, and within the bound."""
        return self.difference is not None and self.difference <= (QUANTA_BOUND if self.quantised else FLOAT_BOUND)

    def to_json(self) -> dict[str, Any]:
        unit = "quanta" if self.quantised else "relative"
        value = "-" if self.difference is None else f"{self.difference:.2g} {unit}"
        return {"part": "A6", "model": self.model, "form": self.form, "difference": value, "note": self.note}


def bridge_goals() -> tuple[list[Goal], list[dict[str, Any]]]:
    """Goals and rows of A6."""
    folder = os.environ.get("SEALIFT_DATA")
    found = [*_own()]
    if folder and Path(folder).is_dir():
        found += _others(Path(folder))
    return goals(found), [item.to_json() for item in found]


def goals(found: list[Compared]) -> list[Goal]:
    """The goals of A6 from what was compared; a model that could not be translated misses one."""
    floats = [item for item in found if item.difference is not None and not item.quantised]
    quantised = [item for item in found if item.difference is not None and item.quantised and item.form != SIGNED]
    signed = [item for item in found if item.difference is not None and item.form == SIGNED]
    own = {(item.model, item.form) for item in found if item.holds and not item.named}
    lost = [item for item in found if item.note.startswith("not translated")]
    whole = [name for name in NAMED if _is_whole([item for item in found if item.named and item.model == name])]
    missing = [name for name in NAMED if not any(item.named and item.model == name for item in found)]
    named = ("A6-models", "of the six named models, those that hold as FP32 and in every form but signed", ">=", 6.0, "models")
    return [
        _worst("A6", "bridge to runtime, float graphs, relative to max(1, largest output)", floats, FLOAT_BOUND, ""),
        _worst("A6-quanta", "bridge to runtime, quantised graphs", quantised, QUANTA_BOUND, "quanta"),
        _worst("A6-signed", "bridge to runtime, signed activations, in floats on x86", signed, QUANTA_BOUND, "quanta"),
        Goal(named[0], named[1], None, *named[2:], "SEALIFT_DATA has not " + ", ".join(missing))
        if missing
        else Goal(named[0], f"{named[1]} ({', '.join(whole)})", float(len(whole)), *named[2:]),
        Goal("A6-combinations", "own architectures by forms that hold", float(len(own)), ">=", float(LEAST_COMBINATIONS), "pairs"),
        Goal("A6-lost", "models that the packager made and the bridge cannot translate", float(len(lost)), "<=", 0.0, "models"),
    ]


def compare(data: bytes, rows: Floats) -> tuple[float, bool]:
    """Bridge against runtime on every output of a model with one float32 input, a record at a time.

    Returns:
        The worst difference, in quanta for a quantised graph and relative else; and which of the two it is.

    Raises:
        BridgeError: not translated.
        FormatError: the walker or the runtime refuses the bytes.
    """
    model = check_own(data, where="benchmark")
    graph = parse_graph(data)
    program = TorchProgram(graph, wanted=graph.outputs)
    name = model.inputs[0].name
    with open_session(model, threads=1) as session, torch.no_grad():
        pairs = [(program(torch.from_numpy(row[None])), session.run({name: row[None]})) for row in rows]
    worst, quantised = 0.0, False
    for index, output in enumerate(graph.outputs):
        bridge = np.stack([ours[index].numpy() for ours, _ in pairs]).astype(np.float32)
        runtime = np.stack([theirs[output] for _, theirs in pairs]).astype(np.float32)
        parity = measure_parity(bridge, runtime, graph=graph, tap=_tap(graph, output), bounds=_BOUNDS)
        quantised = parity.quantised
        # a difference that is no number is no agreement
        share = parity.max_difference / parity.bound if np.isfinite(parity.max_difference) else float("inf")
        worst = max(worst, share * (QUANTA_BOUND if quantised else FLOAT_BOUND))
    return worst, quantised


def _tap(graph: Graph, output: str) -> Tap:
    try:
        return find_tap(graph, output=output)
    except BridgeError:  # not scores over classes; parity needs none
        return Tap(output=output, logits=output, tail=Tail.NONE, cut=(), quantum=None)


def _own() -> Iterator[Compared]:
    for network in NETWORKS:
        rows = network.rows()
        data = network.onnx(rows)
        name = check_model(data, where=network.id).inputs[0].name
        yield from _forms(network.id, data, rows[256:], Dataset({name: rows[:64]}, None, None, None, "digits"), named=False)


def _others(folder: Path) -> Iterator[Compared]:
    for case in CASES:
        arrays = case.rows(folder)
        example = {name: rows[:4] for name, rows in arrays.items() if name not in {"y", "split", "groups"}}
        loaded = load_model(str(folder / case.model), seed=0, example=partial(dict, example))
        if len(loaded.model.inputs) != 1:
            yield Compared(case.id, "FP32", False, False, None, "not compared: an attack needs a single input")
            continue
        name = loaded.model.inputs[0].name
        rows, split = arrays[name].astype(np.float32), arrays["split"]
        calibration = Dataset({name: rows[split == "calibration"][:64]}, None, None, None, case.id)
        yield from _forms(case.id, loaded.model.data, rows[split == "test"], calibration, named=True)


def _forms(model: str, data: bytes, natural: Floats, calibration: Dataset, *, named: bool) -> Iterator[Compared]:
    rng = np.random.default_rng(0)
    natural = natural[rng.permutation(len(natural))[:_ROWS]]
    noise = rng.uniform(natural.min(), natural.max(), size=natural.shape).astype(np.float32)
    rows = np.concatenate([natural, noise])
    for form, step in FORMS.items():
        made = _made(data, step, TechniqueContext(calibration=calibration))
        yield _compared(model, form, made, rows, named=named)


def _made(data: bytes, step: TechniqueStep | None, context: TechniqueContext) -> bytes | str:
    """The compressed bytes, or why there are none."""
    if step is None:
        return data
    try:
        made = apply_technique(step, Compressed(data, "fp32"), context).data
    except SealiftError as e:
        return f"not made: {e.what}"[:120]
    return made if made != data else "not made: nothing to change"


def _compared(model: str, form: str, made: bytes | str, rows: Floats, *, named: bool) -> Compared:
    if isinstance(made, str):
        return Compared(model, form, named, False, None, made)
    try:
        difference, quantised = compare(made, rows)
    except BridgeError as e:
        return Compared(model, form, named, False, None, f"not translated: {e}"[:200])
    return Compared(model, form, named, quantised, difference)


def _is_whole(found: list[Compared]) -> bool:
    """FP32 and the static forms are there, and whatever was made holds."""
    made = {item.form: item for item in found if not item.note.startswith("not made")}
    needed = [form for form in FORMS if form != SIGNED and form.startswith(("FP32", "static", "QOperator"))]
    return all(form in made for form in needed) and all(item.holds for form, item in made.items() if form != SIGNED)


def _worst(identity: str, what: str, found: list[Compared], bound: float, unit: str) -> Goal:
    if not found:
        return Goal(identity, what, None, "<=", bound, unit, "nothing was compared")
    item = max(found, key=lambda one: one.difference or 0.0)
    return Goal(identity, f"{what}, worst of {len(found)} ({item.model}, {item.form})", item.difference, "<=", bound, unit)
