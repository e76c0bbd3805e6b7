"""Controls of the retrieval tests: planted leaks that must be caught, and models that know nothing and must stay quiet.

The models are those of ``audits.controls``: template classifiers that hold records at a given strength, their strength 0
(class averages and nothing else), and each subject's graph with shuffled weights. They are attacked with the subjects' own
budgets and judged by the subjects' rule; null controls share one alpha (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from audits.attacked import attack
from audits.controls import planted_model, planted_records, untrained_twin
from audits.data import AuditData, Floats
from audits.family import Bench
from audits.finding import Control
from audits.parallel import run_all
from audits.retrieval.identity import Gallery, Retrieval, permuted_alarms, retrieve
from audits.retrieval.relabelled import Table
from audits.retrieval.scene import Scene
from audits.retrieval.settings import RetrievalSettings
from audits.retrieval.sights import Seen, look
from audits.retrieval.swap_split import Gap, Halves, Twins, attack_twins, pool_halves
from audits.targets import Subject
from device_client.inference.walker import CheckedModel, check_model

CLASS_MEAN, PLANTED, UNTRAINED = "class_mean", "planted", "untrained"


@dataclass(frozen=True)
class ControlModels:
    """Control models by name, and the strength of the planted ones (0 for class averages)."""

    models: Mapping[str, CheckedModel]
    strengths: Mapping[str, float]

    @property
    def null(self) -> list[str]:
        """Names of those that must stay quiet under relabelled memberships."""
        return [name for name in self.models if not self.strengths.get(name)]


def make_models(bench: Bench, scene: Scene, settings: RetrievalSettings, *, usable: Sequence[Subject]) -> ControlModels:
    """Templates at all strengths and one untrained twin of each usable subject."""
    records = planted_records(scene.pools, seed=scene.policy.seed)
    models, strengths = {}, {}
    for strength in (0.0, *settings.planted_strengths):
        name = f"{PLANTED}:{strength:g}" if strength else CLASS_MEAN
        data = planted_model(scene.data, scene.pools, records, strength=strength, names=_names(bench))
        models[name], strengths[name] = check_model(data, where=name), strength
    for subject in usable:
        name = f"{UNTRAINED}:{subject.id}"
        twin = untrained_twin(subject.model.data, seed=scene.policy.seed)
        models[name] = check_model(twin, features=subject.features, where=name)
    return ControlModels(models, strengths)


def look_at_controls(
    controls: ControlModels, scene: Scene, settings: RetrievalSettings, *, attacks: Sequence[str]
) -> dict[str, Seen]:
    """Attacks from outside on every control."""
    found = run_all([partial(look, model, scene, settings, attacks=attacks) for model in controls.models.values()])
    return dict(zip(controls.models, found, strict=True))


def outside_controls(
    controls: ControlModels, table: Table, *, attack_name: str, blocks: int, alpha: float, required: float, decides: bool
) -> list[Control]:
    """Controls of one attack from outside, judged by the table of the subjects."""
    result = []
    null = controls.null
    for name in controls.models:
        found = table.judged.get((attack_name, name))
        if found is None:
            result.append(_missing(f"{attack_name}:{name}", planted=name not in null, required=decides))
            continue
        strength = controls.strengths.get(name) or None
        if strength is None:
            held = found.p_value > alpha / len(null)
            told = f"{attack_name} on {name}: p = {found.p_value:.2g}, {'quiet' if held else 'a false alarm'}"
            result.append(Control(f"{attack_name}:{name}", False, held, decides, None, told))
        else:
            held = blocks * found.p_adjusted <= alpha
            told = f"{attack_name} on {name}: adjusted p = {found.p_adjusted:.2g}, {'caught' if held else 'missed'}"
            must = decides and strength >= required
            result.append(Control(f"{attack_name}:{name}", True, held, must, strength, told))
    return result


def identity_controls(
    controls: ControlModels,
    retrieved: Mapping[str, Retrieval],
    gallery: Gallery,
    scene: Scene,
    *,
    seen: Mapping[str, Seen],
    inside: bool,
    decides: bool,
) -> list[Control]:
    """Class averages must be retrieved, untrained twins must not be, and falsely claimed identities hit as chance says.

    Args:
        controls: of the run.
        retrieved: by subject, of its strongest images.
        gallery: of the held-outs.
        scene: what attacks share.
        seen: the controls attacked from outside.
        inside: whether the attacker holds the file; else the images from outside are taken.
        decides: whether identity is judged in this run.
    """
    alpha, result = scene.policy.decision.alpha, []
    wanted = [CLASS_MEAN, *(name for name in controls.models if name.startswith(UNTRAINED))]
    for name in wanted:
        planted = name == CLASS_MEAN
        images = _from_inside(controls.models[name], scene) if inside else _from_outside(seen.get(name))
        if images is None:
            result.append(_missing(f"identity:{name}", planted=planted, required=decides))
            continue
        found = retrieve(images, gallery)
        level = alpha if planted else alpha / (len(wanted) - 1)
        held = (found.p_value <= level) is planted
        told = f"identity of {name}: {found.retrieved} of {gallery.classes} retrieved, p = {found.p_value:.2g}"
        result.append(Control(f"identity:{name}", planted, held, decides, None, told))
    for subject, found in retrieved.items():
        alarms, limit, hits = permuted_alarms(
            found.nearest, relabellings=scene.policy.controls.relabellings, alpha=alpha, seed=scene.policy.seed
        )
        told = f"falsely claimed identities of {subject}: {hits:.2f} hits on average, {alarms} alarms, chance explains {limit}"
        result.append(Control(f"identity:permuted:{subject}", False, alarms <= limit, decides, None, told))
    return result


def _from_inside(model: CheckedModel, scene: Scene) -> Floats | None:
    """One attack with one start is enough for a template, and shows an untrained twin as well as more would."""
    policy = replace(scene.policy, inversion=replace(scene.policy.inversion, attacks=("logit",), restarts=1))
    attacked = attack(model, scene.data, start=scene.start, bounds=scene.bounds, policy=policy)
    return attacked.own[0].best_images() if attacked.own else None


def _from_outside(seen: Seen | None) -> Floats | None:
    return next((sight.images.best_images() for sight in seen.sights.values()), None) if seen is not None else None


def swap_split_pairs(bench: Bench, halves: Halves, scene: Scene, settings: RetrievalSettings) -> dict[str, Twins]:
    """Pairs of template classifiers, each with records of its own half, attacked like the twins.

    There is no pair of strength 0: its two models would be the same one, and could never raise an alarm.
    """
    reverse = AuditData(halves.both.x, halves.both.y, ~halves.both.member, halves.both.digest)
    sides = ((halves.both, halves.pools), (reverse, pool_halves(reverse, scene)))
    result = {}
    for strength in settings.planted_strengths:
        name = f"{PLANTED}:{strength:g}"
        made = []
        for data, pools in sides:
            records = planted_records(pools, seed=scene.policy.seed)
            model = planted_model(data, pools, records, strength=strength, names=_names(bench))
            made.append(check_model(model, where=name))
        result[name] = attack_twins((made[0], made[1]), scene, settings)
    return result


def swap_split_controls(
    gaps: Mapping[str, Gap], names: Sequence[str], *, blocks: int, alpha: float, required: float
) -> list[Control]:
    """Judges the planted and untrained pairs by the rule of the subjects; ``names`` in the order they ran."""
    null = [name for name in names if not name.startswith(PLANTED)]
    result = []
    for name in names:
        found = gaps.get(name)
        if found is None:
            result.append(_missing(f"swap_split:{name}", planted=name not in null, required=True))
        elif name in null:
            held = found.p_value > alpha / len(null)
            told = f"swap-split of {name}: p = {found.p_value:.2g}, {'quiet' if held else 'a false alarm'}"
            result.append(Control(f"swap_split:{name}", False, held, True, None, told))
        else:
            strength = float(name.removeprefix(f"{PLANTED}:"))
            held = blocks * found.p_adjusted <= alpha
            told = f"swap-split of {name}: gap {found.gap:.3f}, {'caught' if held else 'missed'}"
            result.append(Control(f"swap_split:{name}", True, held, strength >= required, strength, told))
    return result


def with_stand_in(controls: tuple[Control, ...], *, attacks: Sequence[str], required: float) -> tuple[Control, ...]:
    """Where no test of the family had to catch a leak, the first attack from outside has to.

    Under ``white_box`` that is so without twins: images from outside need not be as good as those from inside. But if nothing of
    the family must catch a leak, nothing says what its quiet results are worth.

    Args:
        controls: of the family.
        attacks: from outside, in their order of strength.
        required: from this strength on a planted leak must be caught.
    """
    if not attacks or any(item.planted and item.required for item in controls):
        return controls
    prefix = f"{attacks[0]}:"
    return tuple(
        replace(item, required=item.strength is None or item.strength >= required) if item.name.startswith(prefix) else item
        for item in controls
    )


def smallest_caught(controls: Sequence[Control], *, prefix: str) -> float | None:
    """The smallest planted strength that was caught together with all larger ones, of one test."""
    power = None
    planted = [item for item in controls if item.name.startswith(prefix) and item.strength is not None]
    for control in sorted(planted, key=lambda item: -(item.strength or 0.0)):
        if not control.held:
            break
        power = control.strength
    return power


def _names(bench: Bench) -> tuple[str, str]:
    """Input and output of the audited model, so that one recipe fits its controls too."""
    return bench.original.model.inputs[0].name, bench.original.model.outputs[0].name


def _missing(name: str, *, planted: bool, required: bool) -> Control:
    return Control(name, planted, False, required, None, f"the control {name} could not be attacked")
