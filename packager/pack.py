"""`pack`: from a model and data to a sealed bundle, step by step. The library behind the command.

    load -> split -> compress (calibration part) -> judge (test part) -> golden probes -> contract, report, bill of
    materials -> write and VERIFY with the device's own code -> time it, beside the bundle

A variant that is larger than the file that was given, or misses the accuracy budget, does not ship; the original ships in its
place and the report says why. Nothing here reads a clock into the bundle or draws an unseeded random number.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
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
from packager.auto.cache import TrialCache
from packager.auto.record import search_json
from packager.auto.rows import trials_of
from packager.card import build_card
from packager.contract_writer import build_contract
from packager.data import read_arrays
from packager.evaluate import make_judge, refuse_infinite, run_rows
from packager.facts import PackFacts
from packager.feed import feed_rows
from packager.golden import GoldenVariant, build_golden
from packager.latency import MIN_ROUNDS, LatencyRatio, measure_ratio
from packager.load import LoadedModel, load_model
from packager.measure.metered_run import MeteredPair, meter_models
from packager.measure.meters import find_meter
from packager.measurements import measurements_path, write_measurements
from packager.parts import make_parts
from packager.recipe import Recipe
from packager.recipe_writer import recipe_path, write_recipe
from packager.reissue import compose_manifest
from packager.report import build_report
from packager.report_page.page import page_path, write_page
from packager.report_page.readings import Readings
from packager.sbom import build_sbom
from packager.split import DataParts
from packager.technique import TechniqueContext
from packager.tensors import check_ranges, describe_tensors, probe_specs
from packager.variants import ORIGINAL_ID, make_variants
from packager.writer import refuse_existing, write_layout

logger = logging.getLogger(__name__)
_EXAMPLE_ROWS = 2
_TIMED_ROWS = 16


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
    """What to pack, from what, and where to. ``data``: ``None`` for made-up inputs."""

    model: str
    data: str | None
    path: BundlePath
    counter: Counter
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    cache: TrialCache = field(default_factory=lambda: TrialCache(None))


@dataclass(frozen=True)
class PackResult:
    """A finished bundle, the facts that its documents are made from, and what lies beside it.

    ``recipe``: the file that repeats what a search chose, ``None`` where there was no search.
    """

    bundle: VerifiedBundle
    out: Path
    facts: PackFacts
    latency: Mapping[str, LatencyRatio]
    measurements: Path
    page: Path
    recipe: Path | None


def pack(request: PackRequest, *, progress: Progress = no_progress) -> PackResult:
    """Packs a model.

    Raises:
        UsageError: a wrong model, data set or recipe, or a target that exists; nothing was written.
        VerificationError: the model, or the bundle made of it, is one that a device refuses.
    """
    beside = (measurements_path(request.out), page_path(request.out), recipe_path(request.out))
    for target in (request.out, *beside):
        refuse_existing(target)
    clock = _StepClock(progress)
    facts = _gather_facts(request, clock)
    _check_golden(facts)
    with clock.step("store", length=len(facts.shipped)) as advance:
        layers, blobs = _layers(facts, advance)
    manifest, added = compose_manifest(build_contract(facts), layers)
    readings = _measure(facts, clock)
    bundle = write_layout(request.out, blobs={**blobs, **added}, manifest=manifest)
    try:
        measurements = _write_measurements(request.out, bundle, facts, readings, clock)
        page = write_page(request.out, replace(facts, trials=trials_of(facts.search)), readings, manifest=bundle.digest)
        recipe = None if facts.search is None else write_recipe(request.out, facts.recipe)
    except BaseException:
        shutil.rmtree(request.out)  # ours, made a moment ago: a bundle without what belongs beside it is half a result
        for path in beside:
            path.unlink(missing_ok=True)
        raise
    return PackResult(bundle, request.out, facts, readings.latency, measurements, page, recipe)


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
        refuse_infinite(reference, where=parts.test.where)
        judge = make_judge(
            reference,
            parts.test,
            task=recipe.task,
            seed=recipe.seed,
            where=parts.test.where,
            metric=recipe.metric,
            output=recipe.output,
        )
    context = TechniqueContext(
        calibration=parts.calibration,
        validation=parts.validation,
        train=parts.train,
        task=judge.task,
        seed=recipe.seed,
        training=recipe.train,
    )
    made = make_variants(loaded, parts.test, judge, context, recipe=recipe, cache=request.cache, step=clock.step)
    recipe, candidates = made.recipe, made.candidates
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
        candidates=candidates,
        golden=golden,
        search=made.search,
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
    arrays = None if request.data is None else read_arrays(request.data)

    def example() -> Mapping[str, NDArray[Any]]:
        return {name: array[:_EXAMPLE_ROWS] for name, array in (arrays or {}).items()}

    loaded = load_model(request.model, seed=request.recipe.seed, example=example)
    return loaded, make_parts(arrays, loaded.model, request.recipe, where=request.data or "")


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


def _measure(facts: PackFacts, clock: _StepClock) -> Readings:
    """Latency and, where the machine has a meter, energy of what ships against the original."""
    rounds = facts.recipe.latency.rounds
    compressed = [candidate for candidate in facts.shipped if candidate.id != ORIGINAL_ID]
    if rounds < MIN_ROUNDS or not compressed:
        return Readings({}, {})
    rows = range(min(_TIMED_ROWS, len(facts.parts.test)))
    feeds = [feed_rows(facts.loaded.model.inputs, facts.parts.test.inputs, start=row) for row in rows]
    meter = find_meter()
    latency: dict[str, LatencyRatio] = {}
    energy: dict[str, MeteredPair] = {}
    with clock.step("latency", length=len(compressed)) as advance:
        for candidate in compressed:
            latency[candidate.id] = measure_ratio(facts.loaded.model, candidate.model, feeds, rounds=rounds)
            energy[candidate.id] = meter_models(facts.loaded.model, candidate.model, feeds, meter=meter)
            advance(1)
    return Readings(latency, energy)


def _write_measurements(out: Path, bundle: VerifiedBundle, facts: PackFacts, readings: Readings, clock: _StepClock) -> Path:
    skipped = {"how": "unavailable", "reason": f"it is the original, or latency.rounds is below {MIN_ROUNDS} in the recipe"}
    latency = {item.id: readings.latency[item.id].to_json() if item.id in readings.latency else skipped for item in facts.shipped}
    energy = {variant: pair.to_json() for variant, pair in readings.energy.items()}
    search = None if facts.search is None else search_json(facts.search)
    return write_measurements(
        out, manifest=bundle.digest, latency=latency, energy=energy, durations_s=clock.durations_s, search=search
    )
