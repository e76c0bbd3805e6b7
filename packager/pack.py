"""`pack`: from a model and data to a sealed bundle, step by step. The library behind the command.

    load -> split -> compress (calibration part) -> judge (test part) -> golden probes -> contract, report, bill of
    materials -> write and VERIFY with the device's own code -> time it, beside the bundle

A variant that is larger than the original, or misses the accuracy budget, does not ship; the original ships in its
place and the report says why. Nothing here reads a clock into the bundle or draws an unseeded random number.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from device_client.bundle import media_types
from device_client.bundle.counter import Counter
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.bundle.verified import VerifiedBundle
from device_client.inference.golden import compare, parse_golden, record
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from packager.budget import BudgetVerdict
from packager.card import build_card
from packager.contract_writer import build_contract
from packager.data import fit_dataset, read_arrays
from packager.evaluate import Judge, make_judge, run_rows
from packager.facts import Candidate, PackFacts
from packager.golden import GoldenVariant, build_golden
from packager.latency import MIN_ROUNDS, LatencyRatio, measure_ratio
from packager.load import LoadedModel, load_model
from packager.measurements import measurements_path, write_measurements
from packager.recipe import Recipe
from packager.reissue import compose_manifest
from packager.report import build_report
from packager.sbom import build_sbom
from packager.split import DataParts, split_dataset
from packager.technique import Compressed, TechniqueContext, apply_technique
from packager.tensors import check_ranges, describe_tensors, probe_specs
from packager.writer import refuse_existing, write_layout

logger = logging.getLogger(__name__)
ORIGINAL_ID = "fp32"
_EXAMPLE_ROWS = 2


class Progress(Protocol):
    """A progress bar: a context that gives ``advance(steps)``."""

    def __call__(self, label: str, *, length: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begins a step of ``length`` units."""
        ...


@contextmanager
def no_progress(label: str, *, length: int) -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda steps: None


@dataclass(frozen=True)
class PackRequest:
    """What to pack, from what, and where to."""

    model: str
    data: str
    path: BundlePath
    counter: Counter
    out: Path
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class PackResult:
    """A finished bundle, the facts that its documents are made from, and the clock readings beside it."""

    bundle: VerifiedBundle
    out: Path
    facts: PackFacts
    latency: Mapping[str, LatencyRatio]
    measurements: Path


def pack(request: PackRequest, *, progress: Progress = no_progress) -> PackResult:
    """Packs a model.

    Raises:
        UsageError: a wrong model, data set or recipe, or a target that exists; nothing was written.
        VerificationError: the model, or the bundle made of it, is one that a device refuses.
    """
    for target in (request.out, measurements_path(request.out)):
        refuse_existing(target)
    clock = _StepClock(progress)
    facts = _gather_facts(request, clock)
    _check_golden(facts)
    with clock.step("store", length=len(facts.shipped)) as advance:
        layers, blobs = _layers(facts, advance)
    manifest, added = compose_manifest(build_contract(facts), layers)
    latency = _measure(facts, clock)
    bundle = write_layout(request.out, blobs={**blobs, **added}, manifest=manifest)
    try:
        measurements = _write_measurements(request.out, bundle, facts, latency, clock)
    except BaseException:
        shutil.rmtree(request.out)  # ours, made a moment ago: a bundle without its measurements is half a result
        raise
    return PackResult(bundle, request.out, facts, latency, measurements)


def _gather_facts(request: PackRequest, clock: _StepClock) -> PackFacts:
    """Everything from loading to golden probes."""
    recipe = request.recipe
    with clock.step("load", length=1) as advance:
        loaded, parts = _load(request)
        inputs = describe_tensors(loaded.model.inputs, recipe.inputs, kind="inputs")
        check_ranges(inputs, parts)
        advance(1)
    with clock.step("judge original", length=len(parts.test)) as advance:
        reference = run_rows(loaded.model, parts.test, advance=advance)
        judge = make_judge(reference, parts.test, task=recipe.task, seed=recipe.seed, where=request.data)
    candidates = _compress_and_judge(loaded, parts, judge, recipe, clock)
    variants = [GoldenVariant(item.id, item.model, item.precision) for item in candidates if item.refused is None]
    with clock.step("golden probes", length=recipe.golden.mutants * len(variants)) as advance:
        golden = build_golden(
            variants, probe_specs(inputs, parts.calibration), plan=recipe.golden, seed=loaded.source_digest, advance=advance
        )
    return PackFacts(
        path=request.path,
        counter=request.counter,
        recipe=recipe,
        loaded=loaded,
        parts=parts,
        inputs=inputs,
        task=judge.task,
        metric=judge.metric.name,
        original=judge.estimate(),
        candidates=tuple(candidates),
        golden=golden,
    )


class _StepClock:
    """Shows progress, and keeps the seconds of each step for ``measurements.json``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.durations_s: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, *, length: int) -> Iterator[Callable[[int], None]]:
        begun = time.perf_counter()
        with self._progress(name, length=length) as advance:
            yield advance
        self.durations_s[name] = time.perf_counter() - begun


def _load(request: PackRequest) -> tuple[LoadedModel, DataParts]:
    arrays = read_arrays(request.data)

    def example() -> Mapping[str, NDArray[Any]]:
        return {name: array[:_EXAMPLE_ROWS] for name, array in arrays.items()}

    plan = request.recipe.data
    loaded = load_model(request.model, seed=request.recipe.seed, example=example)
    data = fit_dataset(arrays, loaded.model.inputs, where=request.data)
    parts = split_dataset(
        data,
        seed=request.recipe.seed,
        calibration_share=plan.calibration_share,
        validation_share=plan.validation_share,
        max_calibration_rows=plan.max_calibration_rows,
    )
    return loaded, parts


def _compress_and_judge(loaded: LoadedModel, parts: DataParts, judge: Judge, recipe: Recipe, clock: _StepClock) -> list[Candidate]:
    original = Compressed(loaded.model.data, ORIGINAL_ID, module=loaded.module)
    context = TechniqueContext(
        calibration=parts.calibration,
        validation=parts.validation,
        train=parts.train,
        task=judge.task,
        seed=recipe.seed,
        training=recipe.train,
    )
    candidates = []
    if recipe.techniques:
        with clock.step("compress", length=len(recipe.techniques)) as advance:
            model = original
            for technique in recipe.techniques:
                model = apply_technique(technique, model, context)
                advance(1)
        name = "-".join(technique.name for technique in recipe.techniques)
        with clock.step(f"judge {name}", length=len(parts.test)) as advance:
            candidates.append(_judge(name, model, parts, judge, recipe, original=original, advance=advance))
    if recipe.include_original or all(candidate.refused is not None for candidate in candidates):
        candidates.append(_judge(ORIGINAL_ID, original, parts, judge, recipe, original=original, advance=None))
    return candidates


def _judge(
    name: str,
    model: Compressed,
    parts: DataParts,
    judge: Judge,
    recipe: Recipe,
    *,
    original: Compressed,
    advance: Callable[[int], None] | None,
) -> Candidate:
    checked = check_model(model.data)
    outputs = judge.reference if model is original else run_rows(checked, parts.test, advance=advance)
    evaluation = judge.evaluate(outputs, allowed_drop=recipe.budget.accuracy_drop)
    refused = None
    if len(model.data) > len(original.data):
        refused = f"larger than the original: {len(model.data)} bytes against {len(original.data)}"
    elif evaluation.budget.verdict is BudgetVerdict.MISSED:
        refused = (
            f"misses the accuracy budget: {evaluation.metric} drops by at least {evaluation.drop.low:.4f}, "
            f"allowed {recipe.budget.accuracy_drop:g}"
        )
    return Candidate(name, checked, model.precision, evaluation, model.evidence, refused)


def _layers(facts: PackFacts, advance: Callable[[int], None]) -> tuple[tuple[Descriptor, ...], dict[Digest, bytes]]:
    """All layers but the contract, in the order of the manifest, and their blobs. Models are stored as is smallest."""
    weights = []
    for item in facts.shipped:
        stored = facts.stored(item)
        encoding = () if stored.encoding is None else ((media_types.ANNOTATION_ENCODING, stored.encoding),)
        weights.append((media_types.WEIGHT, stored.data, (*encoding, (media_types.ANNOTATION_VARIANT, item.id))))
        advance(1)
    layers = []
    blobs = {}
    for media_type, data, marks in (
        *weights,
        (media_types.GOLDEN, facts.golden.data, ()),
        (media_types.DOC, build_card(facts), ()),
        (media_types.SBOM, build_sbom(facts), ()),
        (media_types.REPORT, build_report(facts), ()),
    ):
        digest = Digest.of(data)
        layers.append(Descriptor(media_type, digest, len(data), marks))
        blobs[digest] = data
    return tuple(layers), blobs


def _check_golden(facts: PackFacts) -> None:
    """The device's self-test, on the file that ships and in fresh sessions."""
    probes = parse_golden(facts.golden.data)
    for candidate in facts.shipped:
        with open_session(candidate.model) as session:
            outputs = record(session, probes.inputs)
        compare(probes.expected_for(candidate.id), outputs, dict(facts.golden.tolerances)[candidate.id])


def _measure(facts: PackFacts, clock: _StepClock) -> dict[str, LatencyRatio]:
    rounds = facts.recipe.latency.rounds
    compressed = [candidate for candidate in facts.shipped if candidate.id != ORIGINAL_ID]
    if rounds < MIN_ROUNDS or not compressed:
        return {}
    feeds = {name: array[:1] for name, array in facts.parts.test.inputs.items()}
    measured = {}
    with clock.step("latency", length=len(compressed)) as advance:
        for candidate in compressed:
            measured[candidate.id] = measure_ratio(facts.loaded.model, candidate.model, feeds, rounds=rounds)
            advance(1)
    return measured


def _write_measurements(
    out: Path, bundle: VerifiedBundle, facts: PackFacts, latency: Mapping[str, LatencyRatio], clock: _StepClock
) -> Path:
    skipped = {"how": "unavailable", "reason": f"it is the original, or latency.rounds is below {MIN_ROUNDS} in the recipe"}
    readings = {item.id: latency[item.id].to_json() if item.id in latency else skipped for item in facts.shipped}
    return write_measurements(out, manifest=bundle.digest, latency=readings, durations_s=clock.durations_s)
