"""The membership family: from models and records to findings.

    result = run_membership(bench, settings)

1. who is judged, 2. scores of every model, 3. shadows, 4. all attacks on all models, 5. p-values, Holm over tests and models,
6. controls by the same rule, 7. what the page shows. The ruling is elsewhere.

Without a trainer only the threshold test runs, and the others say so. With too few held-outs for the policy's false positive rate
no test runs: what can be told at a coarser rate is shown, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from audits.bridge.graph import BridgeError
from audits.class_scores import told_briefly, why_no_better_than_chance
from audits.controls import untrained_twin
from audits.family import Bench
from audits.finding import Control, FamilyResult
from audits.membership.controls import POWER_UNIT, Ground, canaries, permuted, planted, untrained
from audits.membership.deltas import Measured, compare, measure
from audits.membership.draws import Judged, draw_judged
from audits.membership.findings import FAMILY, find
from audits.membership.judgement import Bound, judge
from audits.membership.page import describe_run, describe_subject, named_records
from audits.membership.roc import MIN_FALSE_POSITIVES, finest_fpr, supports
from audits.membership.scorer import score_model
from audits.membership.scores import Doubles, RecordScores, record_scores
from audits.membership.settings import TESTS, MembershipSettings
from audits.membership.shadows import Shadows, make_shadows
from audits.membership.state import Read, State
from audits.membership.suite import attack_scores
from audits.targets import Subject
from device_client.errors import FormatError, UsageError
from device_client.inference.walker import CheckedModel, check_model


def run_membership(bench: Bench, settings: MembershipSettings) -> FamilyResult:
    """Runs the family.

    Args:
        bench: models, records, policy, compressor, trainer.
        settings: of the family.

    Raises:
        SealiftError: training or compression of a shadow failed; a model that cannot be scored does not raise, its findings say so.
    """
    seed, decision = bench.policy.seed, bench.policy.decision
    judged = draw_judged(bench.data, minimum=settings.min_records_per_class, maximum=settings.max_records, seed=seed)
    unjudged = _why_unjudged(judged, settings)
    enough = min(judged.members, judged.heldouts) >= 2 * MIN_FALSE_POSITIVES
    read = {subject.id: _read(subject, bench, judged) if enough else Read(None, None) for subject in bench.subjects}
    readable = [subject.id for subject in bench.subjects if read[subject.id].scores is not None]
    if not readable:
        return _nothing(bench, settings, judged, read, unjudged)
    shadows = None
    if bench.trainer is not None and settings.shadows:
        variants = tuple(variant.id for variant in bench.variants)
        shadows = make_shadows(
            bench.data,
            judged,
            settings,
            trainer=bench.trainer,
            compressor=bench.compressor,
            variants=variants,
            seed=seed,
            report=bench.report,
        )
    bench.report("membership attacks")
    attacks = {name: _attack(name, read, readable, shadows, bench, judged) for name in readable}
    fpr = settings.fpr if supports(judged.heldouts, fpr=settings.fpr) else finest_fpr(judged.heldouts)
    bound = Bound(fpr, settings.tolerated, decision.alpha, decision.confidence)
    found = {(name, test): judge(test, attacks[name], judged.member, bound) for name in readable for test in TESTS}
    outcomes = {key: outcome for key, outcome in found.items() if outcome is not None}
    state = State(bench, settings, judged, read, shadows, attacks, outcomes, replace(bound, compared=len(outcomes)), unjudged)
    controls, power = _controls(state)
    deltas = _deltas(state)
    details = {subject.id: describe_subject(state, subject.id, deltas.get(subject.id, [])) for subject in bench.subjects}
    return FamilyResult(
        FAMILY,
        find(state, deltas),
        controls,
        power,
        POWER_UNIT,
        details,
        describe_run(state),
        records=named_records(state, details),
    )


def _why_unjudged(judged: Judged, settings: MembershipSettings) -> str | None:
    """Why no test can be judged at the policy's rate, or None."""
    if supports(judged.heldouts, fpr=settings.fpr):
        return None
    needed = int(np.ceil(MIN_FALSE_POSITIVES / settings.fpr))
    return f"{judged.heldouts} held-outs are too few for a false positive rate of {settings.fpr:g}: {needed} are needed"


def _read(subject: Subject, bench: Bench, judged: Judged) -> Read:
    """A model that cannot be scored is blind to this family and hides no verdict on others."""
    bench.report(f"scoring {subject.id}")
    return _read_or_blind(subject.model, bench, judged, features=subject.features)


def _read_or_blind(model: CheckedModel, bench: Bench, judged: Judged, *, features: tuple[str, ...]) -> Read:
    try:
        return _scored(model, bench, judged, features=features)
    except (BridgeError, FormatError) as e:
        return Read(None, None, told_briefly(e))
    except UsageError as e:
        if e.code != "input_mismatch":
            raise
        return Read(None, None, f"the records do not fit the model: {e}")


def _scored(model: CheckedModel, bench: Bench, judged: Judged, *, features: tuple[str, ...]) -> Read:
    scored = score_model(model, bench.data.x[judged.rows], features=features)
    classes = scored.log_probabilities.shape[1]
    if bench.data.classes > classes:
        return Read(None, None, f"labels go up to {bench.data.classes - 1} and the model has {classes} classes")
    y = bench.data.y[judged.rows]
    answers = scored.log_probabilities.argmax(axis=1)[judged.member]
    strange = why_no_better_than_chance(answers, y[judged.member], classes=classes)
    return Read(scored, record_scores(scored.log_probabilities, y), strange_labels=strange)


def _attack(
    name: str, read: Mapping[str, Read], readable: list[str], shadows: Shadows | None, bench: Bench, judged: Judged
) -> dict[str, Doubles]:
    """All attacks on one model. The joint one adds the original to a variant, and to the original every variant."""
    scores = {subject: read[subject].scores for subject in readable}
    partners = [subject for subject in readable if subject != name and bench.original.id in {name, subject}]
    others = {subject: found for subject in partners if (found := scores[subject]) is not None}
    mine = scores[name]
    if mine is None:
        raise ValueError("only readable models are attacked")
    return attack_scores(mine, shadows, subject=name, y=bench.data.y[judged.rows], others=others)


def _controls(state: State) -> tuple[tuple[Control, ...], float | None]:
    """All controls. Where no test is judged they are shown and none is required."""
    state.bench.report("membership controls")
    ground = Ground(state.judged, state.bench.data.y[state.judged.rows], state.bound, state.settings, state.bench.policy.seed)
    first = next(iter(state.attacks))
    scores = state.read[first].scores
    if scores is None:
        raise ValueError("only readable models are attacked")
    leaks, power = planted(ground, scores, state.shadows)
    found = [*leaks]
    if state.shadows is not None:
        found += canaries(ground, state.shadows)
    found += permuted(ground, state.attacks)
    found += untrained(ground, _untrained_twins(state), state.shadows)
    if state.unjudged is not None:
        found = [replace(control, required=False) for control in found]
    return tuple(found), power


def _untrained_twins(state: State) -> list[tuple[str, str, RecordScores]]:
    twins = []
    for subject in state.bench.subjects:
        for index in range(state.settings.untrained_twins if subject.id in state.attacks else 0):
            data = untrained_twin(subject.model.data, seed=state.bench.policy.seed + index)
            name = f"untrained:{subject.id}:{index}"
            model = check_model(data, features=subject.features, where=name)
            read = _read_or_blind(model, state.bench, state.judged, features=subject.features)
            if read.scores is not None:  # shuffled weights may give NaN
                twins.append((name, subject.id, read.scores))
    return twins


def _deltas(state: State) -> dict[str, list[dict[str, Any]]]:
    """Every variant against the original, attack by attack; intervals widened for the number of attacks."""
    first, variants = state.bench.original.id, [name for name in state.attacks if name != state.bench.original.id]
    if first not in state.attacks or not variants:
        return {}
    original = _measured(state, first)
    confidence = 1.0 - (1.0 - state.bench.policy.decision.confidence) / len(original)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in variants:
        mine = _measured(state, name)
        found[name] = [
            compare(attack, mine[attack], original[attack], fpr=state.bound.fpr, confidence=confidence) for attack in original
        ]
    return found


def _measured(state: State, name: str) -> dict[str, Measured]:
    """By attack; the joint one is of several models and has no difference to one of them."""
    decision, seed = state.bench.policy.decision, state.bench.policy.seed
    return {
        attack: measure(scores, state.judged.member, fpr=state.bound.fpr, resamples=decision.bootstraps, seed=seed)
        for attack, scores in state.attacks[name].items()
        if attack != "joint"
    }


def _nothing(
    bench: Bench, settings: MembershipSettings, judged: Judged, read: Mapping[str, Read], unjudged: str | None
) -> FamilyResult:
    """No model can be scored, or there is next to nobody to judge."""
    bound = Bound(settings.fpr, settings.tolerated, bench.policy.decision.alpha, bench.policy.decision.confidence)
    state = State(bench, settings, judged, read, None, {}, {}, bound, unjudged)
    detail = {subject.id: describe_subject(state, subject.id, []) for subject in bench.subjects}
    return FamilyResult(FAMILY, find(state, {}), (), None, POWER_UNIT, detail, describe_run(state))
