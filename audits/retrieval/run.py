"""The retrieval tests of one run: identities, and records by black box, by labels alone, and between twins.

    result = run_retrieval(bench, settings)

1. what attacks share; 2. images from inside (``attacked``) and from outside (``sights``); 3. identities; 4. relabelled
memberships for the images from outside; 5. twins; 6. controls; 7. findings. The verdict is elsewhere.

Deterministic for one torch thread, which is set while it runs. Cost: the white-box portfolio on each model unless its
results are handed in, and the black-box budgets on each model and control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from audits.attacked import Attacked, attack
from audits.data import Floats
from audits.family import Bench
from audits.finding import Control, FamilyResult
from audits.inversion import Reconstruction
from audits.retrieval.asked import Asked, access, full_name
from audits.retrieval.controls import (
    ControlModels,
    identity_controls,
    look_at_controls,
    make_models,
    outside_controls,
    smallest_caught,
    with_stand_in,
)
from audits.retrieval.cross_check import cross_check
from audits.retrieval.findings import collect
from audits.retrieval.found import Identities, Outside
from audits.retrieval.identity import make_gallery, retrieve
from audits.retrieval.masking import Masking, measure_masking
from audits.retrieval.relabelled import Table, judge
from audits.retrieval.scene import Scene, make_scene, thin_reason
from audits.retrieval.settings import TESTS, RetrievalSettings
from audits.retrieval.sights import OUTSIDE, Seen, look
from audits.retrieval.twins import SwapSplit, run_swap_split


@dataclass(frozen=True)
class RetrievalImages:
    """Images for the page, private until blurred.

    Attributes:
        start: (...), where every attack starts.
        images: (C, ...) by subject and attack.
    """

    start: Floats
    images: Mapping[tuple[str, str], Floats]


@dataclass(frozen=True)
class RetrievalRun:
    """The findings, and the images that stand behind them."""

    result: FamilyResult
    images: RetrievalImages


def run_retrieval(bench: Bench, settings: RetrievalSettings) -> FamilyResult:
    """Runs the tests that the policy asks for on all subjects; white-box images that another family made are taken from the bench.

    Raises:
        UsageError: ``audit_data``: the records do not fit the original.
    """
    wanted = tuple(name for name in TESTS if bench.policy.runs(full_name(name)))
    run = audit_retrieval(bench, settings, wanted=wanted, attacked=bench.attacked)
    return replace(run.result, images={key: images for key, images in run.images.images.items() if key[1] in OUTSIDE})


def audit_retrieval(
    bench: Bench,
    settings: RetrievalSettings,
    *,
    wanted: Sequence[str] = TESTS,
    attacked: Mapping[str, Attacked] | None = None,
) -> RetrievalRun:
    """As ``run_retrieval``, with the images.

    Args:
        bench: models, records, policy.
        settings: budgets and bounds.
        wanted: names of the tests that run.
        attacked: white-box results by subject id, made by the same policy; attacked here where missing.
    """
    with _one_thread():
        scene = make_scene(bench)
        asked = access(settings, wanted, threat_model=bench.policy.threat_model)
        inside = _from_inside(bench, scene, asked, attacked or {})
        outside = _from_outside(bench, scene, settings, asked)
        controls = _control_models(bench, scene, settings, inside, outside)
        seen = _ask_controls(bench, scene, settings, asked, controls)
        table, judged_controls = _relabel(bench, scene, settings, asked, outside, controls, seen)
        identities = _identify(bench, scene, settings, asked, inside, outside)
        more_controls = _identity_controls(controls, identities, scene, seen=seen, asked=asked, settings=settings)
        if "swap_split" in asked.tests:
            twins = run_swap_split(bench, scene, settings, blocks=asked.blocks)
        else:
            twins = SwapSplit(dict.fromkeys([subject.id for subject in bench.subjects], asked.why_not("swap_split")))
        reference = _reference(bench, scene, settings, outside)
    everything = with_stand_in(
        (*more_controls, *judged_controls, *twins.controls), attacks=asked.outside, required=settings.planted_required
    )
    powers = {
        name: smallest_caught(everything, prefix=f"{name}:")
        for name in (*OUTSIDE, "swap_split")
        if any(control.name.startswith(f"{name}:") for control in everything)
    }
    result = collect(
        bench,
        scene,
        settings,
        asked=asked,
        identities=identities,
        outside=Outside(outside, table, thin_reason(scene.pools, minimum=bench.policy.decision.min_records_per_class)),
        twins=twins,
        controls=everything,
        powers=powers,
        reference=reference,
    )
    return RetrievalRun(result, _images(scene, inside, outside))


def _from_inside(bench: Bench, scene: Scene, asked: Asked, given: Mapping[str, Attacked]) -> dict[str, Attacked]:
    """White-box images of every subject, the original first; empty where the attacker does not have the file."""
    if not asked.inside or "identity" not in asked.tests:
        return {}
    found: dict[str, Attacked] = {}
    for subject in bench.subjects:
        if subject.id not in given:
            bench.report(f"attacking {subject.id}")
        found[subject.id] = given.get(subject.id) or attack(
            subject.model,
            scene.data,
            start=scene.start,
            bounds=scene.bounds,
            policy=scene.policy,
            original=found.get(bench.original.id),
        )
    return found


def _from_outside(bench: Bench, scene: Scene, settings: RetrievalSettings, asked: Asked) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for subject in bench.subjects:
        if asked.outside:
            bench.report(f"asking {subject.id}")
        original = found.get(bench.original.id)
        found[subject.id] = look(subject.model, scene, settings, attacks=asked.outside, original=original)
    return found


def _control_models(
    bench: Bench, scene: Scene, settings: RetrievalSettings, inside: Mapping[str, Attacked], outside: Mapping[str, Seen]
) -> ControlModels:
    """None where classes are thin: there is nothing to plant."""
    if scene.pools.thin:
        return ControlModels({}, {})
    usable = [
        subject
        for subject in bench.subjects
        if not outside[subject.id].blocked or (subject.id in inside and not inside[subject.id].blocked)
    ]
    return make_models(bench, scene, settings, usable=usable)


def _ask_controls(
    bench: Bench, scene: Scene, settings: RetrievalSettings, asked: Asked, controls: ControlModels
) -> dict[str, Seen]:
    if not asked.outside:
        return {}
    bench.report("asking the controls")
    return look_at_controls(controls, scene, settings, attacks=asked.outside)


def _relabel(
    bench: Bench,
    scene: Scene,
    settings: RetrievalSettings,
    asked: Asked,
    outside: Mapping[str, Seen],
    controls: ControlModels,
    seen: Mapping[str, Seen],
) -> tuple[Table, list[Control]]:
    """The images from outside under relabelled memberships, with their controls."""
    if not asked.outside or scene.pools.thin:
        return Table({}, 0, 0), []
    bench.report("relabelling memberships")
    table = judge(_sighted(outside), _sighted(seen), scene, original=bench.original.id)
    alpha, result = bench.policy.decision.alpha, []
    for name in asked.outside:
        result += outside_controls(
            controls,
            table,
            attack_name=name,
            blocks=asked.blocks,
            alpha=alpha,
            required=settings.planted_required,
            decides=asked.decides(name, blocked=False),
        )
    told = f"{table.alarms} relabelled memberships raised an alarm, chance explains {table.alarm_limit}"
    result.append(Control("relabelled", False, table.alarms <= table.alarm_limit, True, None, told))
    return table, result


def _identify(
    bench: Bench,
    scene: Scene,
    settings: RetrievalSettings,
    asked: Asked,
    inside: Mapping[str, Attacked],
    outside: Mapping[str, Seen],
) -> Identities:
    """Every set of images against the gallery of the held-outs."""
    gallery = make_gallery(scene.data, classes=scene.classes) if "identity" in asked.tests else None
    no_gradient = {name: found.blocked for name, found in inside.items()}
    if gallery is None:
        return Identities(None, {}, {}, no_gradient)
    tolerated = 0.0 if settings.identity_is_public else settings.max_retrieval
    confidence = scene.policy.decision.confidence
    retrieved = {
        subject.id: {
            item.attack: retrieve(item.best_images(), gallery, tolerated=tolerated, confidence=confidence)
            for item in _all_images(inside.get(subject.id), outside[subject.id])
        }
        for subject in bench.subjects
    }
    return Identities(gallery, retrieved, _masking(bench, scene, inside), no_gradient)


def _identity_controls(
    controls: ControlModels,
    identities: Identities,
    scene: Scene,
    *,
    seen: Mapping[str, Seen],
    asked: Asked,
    settings: RetrievalSettings,
) -> list[Control]:
    if identities.gallery is None or not controls.models:
        return []
    strongest = {name: identities.strongest(name)[1] for name, found in identities.retrieved.items() if found}
    decides = not settings.identity_is_public
    return identity_controls(controls, strongest, identities.gallery, scene, seen=seen, inside=asked.inside, decides=decides)


def _masking(bench: Bench, scene: Scene, inside: Mapping[str, Attacked]) -> dict[str, Masking]:
    original = inside.get(bench.original.id)
    return {
        subject.id: measure_masking(subject.model, inside[subject.id], scene, original=None if subject.is_original else original)
        for subject in bench.subjects
        if subject.id in inside and not inside[subject.id].blocked and inside[subject.id].own
    }


def _all_images(inside: Attacked | None, outside: Seen) -> Sequence[Reconstruction]:
    own = inside.reconstructions if inside is not None else ()
    return (*own, *(sight.images for sight in outside.sights.values()))


def _sighted(seen: Mapping[str, Seen]) -> dict[tuple[str, str], Reconstruction]:
    return {(attack_name, name): sight.images for name, found in seen.items() for attack_name, sight in found.sights.items()}


def _reference(bench: Bench, scene: Scene, settings: RetrievalSettings, outside: Mapping[str, Seen]) -> dict[str, dict[str, Any]]:
    if settings.reference_records == 0:
        return {}
    bench.report("running ART beside")
    return {
        subject.id: cross_check(subject.model, scene, records=settings.reference_records)
        for subject in bench.subjects
        if not outside[subject.id].blocked
    }


def _images(scene: Scene, inside: Mapping[str, Attacked], outside: Mapping[str, Seen]) -> RetrievalImages:
    made = {
        (name, item.attack): item.best_images() for name, seen in outside.items() for item in _all_images(inside.get(name), seen)
    }
    return RetrievalImages(scene.start, made)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
