"""Controls of a membership audit: leaks that must be caught and memberships that must stay quiet, by the rule of the models.

- ``planted:S``: a membership that has nothing to do with the training, and a share S of its members lifted far up in the scores.
  Needs no trainer. Shows that scores, attacks and statistics find a leak of that size; not that a real leak looks so.
- ``canary:N``: a twin trained on records with wrong labels, N copies each, beside records with wrong labels that it never saw.
  A training that does not learn them by heart (less than half) says nothing about the attacks, and its control counts as held.
- ``permuted``: memberships drawn anew within each class must raise no more alarms than chance explains.
- ``permuted_area``: the intervals of their areas must cover one half as often as they say.
- ``untrained:ID:N``: the model with every weight tensor shuffled must stay quiet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from audits.finding import Control
from audits.membership.auc import area
from audits.membership.draws import Judged, permute_within_classes
from audits.membership.judgement import Bound, chances, is_alarm, permuted_p
from audits.membership.roc import Bools, supports
from audits.membership.scores import Doubles, Integers, RecordScores
from audits.membership.settings import MembershipSettings
from audits.membership.shadows import Shadows
from audits.membership.suite import DECIDING, attack_scores, lifted
from audits.membership.twins import Twin
from audits.statistics import binomial_limit, clopper_pearson

_LIFT = 6.0  # standard deviations of the confidence over all judged records
_PLANT, _PERMUTE = 46, 47
POWER_UNIT = "share of members whose scores stand above the held-outs'"


@dataclass(frozen=True)
class Ground:
    """What all controls stand on; ``y`` are the labels of the judged records."""

    judged: Judged
    y: Integers
    bound: Bound
    settings: MembershipSettings
    seed: int


def planted(ground: Ground, scores: RecordScores, shadows: Shadows | None) -> tuple[tuple[Control, ...], float | None]:
    """Planted shares of growing size in one model's scores, and the smallest that was caught together with all larger ones."""
    rng = np.random.default_rng([ground.seed, _PLANT])
    member = permute_within_classes(ground.judged.member, ground.y, rng=rng)
    order = rng.permutation(np.flatnonzero(member))
    reach = _LIFT * float(scores.confidence.std())
    controls: list[Control] = []
    for share in ground.settings.planted_shares:
        chosen = order[: round(share * len(order))]
        raised = lifted(scores, chosen, by=reach)
        attacks = attack_scores(raised, shadows, subject="original", y=ground.y, others={})
        caught, told = _told(chances(attacks, member, ground.bound), ground.bound)
        told = f"a planted leak of {share:.0%} of the members was {told}"
        controls.append(Control(f"planted:{share:g}", True, caught, share >= ground.settings.planted_required, share, told))
    power = None
    for control in reversed(controls):
        if not control.held:
            break
        power = control.strength
    return tuple(controls), power


def canaries(ground: Ground, shadows: Shadows) -> tuple[Control, ...]:
    """One control for each twin; only the strongest is required, and only where the twin learnt its canaries."""
    largest = max((twin.copies for twin in shadows.twins), default=0)
    return tuple(_canary(ground, shadows, twin, required=twin.copies == largest) for twin in shadows.twins)


def _canary(ground: Ground, shadows: Shadows, twin: Twin, *, required: bool) -> Control:
    name = f"canary:{twin.copies}"
    heldouts = int(twin.outside.sum())
    if shadows.wrong is None or not supports(heldouts, fpr=ground.bound.fpr):
        told = f"{heldouts} records outside the twin are too few for a false positive rate of {ground.bound.fpr:g}"
        return Control(name, True, True, False, None, told)
    rows = np.flatnonzero(twin.inside | twin.outside)
    raised = twin.confidence - shadows.wrong.mean(axis=0)
    attacks = {"confidence": twin.confidence[rows], "lira_online": raised[rows]}
    caught, seen = _told(chances(attacks, twin.inside[rows], ground.bound), ground.bound)
    learnt = twin.fitted >= 0.5
    told = f"{int(twin.inside.sum())} mislabelled records, {twin.copies} times each in a twin's training, were "
    told += f"{seen}; the twin learnt {twin.fitted:.0%} of them"
    return Control(name, True, caught or not learnt, required and learnt, None, told)


def _told(found: Mapping[str, float], bound: Bound) -> tuple[bool, str]:
    """Whether any test would have failed the model, and which."""
    loud = [test for test, p in found.items() if is_alarm(p, bound)]
    words = f"caught by {', '.join(loud)}" if loud else "not caught"
    return bool(loud), f"{words} (smallest p = {min(found.values()):.2g})"


def permuted(ground: Ground, by_subject: Mapping[str, Mapping[str, Doubles]]) -> tuple[Control, ...]:
    """Fresh memberships: alarms over all models, and how often the area's interval misses one half."""
    rng = np.random.default_rng([ground.seed, _PERMUTE])
    trials = ground.settings.relabellings
    memberships = np.stack([permute_within_classes(ground.judged.member, ground.y, rng=rng) for _ in range(trials)])
    smallest = np.min([permuted_p(attacks, memberships, ground.bound) for attacks in by_subject.values()], axis=0)
    alarms = int(sum(is_alarm(float(p), ground.bound) for p in smallest))
    limit = binomial_limit(trials, rate=ground.bound.alpha)
    low, high = clopper_pearson(alarms, trials)
    told = f"{alarms} of {trials} permuted memberships raised an alarm (95 % interval {low:.1%} to {high:.1%}); "
    told += f"chance explains {limit}"
    first = next(iter(by_subject.values()))
    return Control("permuted", False, alarms <= limit, True, None, told), _areas(first, memberships, ground.bound)


def _areas(attacks: Mapping[str, Doubles], memberships: Bools, bound: Bound) -> Control:
    names = [name for group in DECIDING.values() for name in group if name in attacks]
    missed = {
        name: sum(not low <= 0.5 <= high for low, high in (_interval(attacks[name], member, bound) for member in memberships))
        for name in names
    }
    worst = max(names, key=lambda name: missed[name])
    # the limit is shared between the attacks
    limit = binomial_limit(len(memberships), rate=1.0 - bound.confidence, tail=1e-3 / len(names))
    told = f"the area's interval missed one half for {missed[worst]} of {len(memberships)} permuted memberships ({worst}); "
    return Control("permuted_area", False, missed[worst] <= limit, True, None, told + f"chance explains {limit}")


def _interval(scores: Doubles, member: Bools, bound: Bound) -> tuple[float, float]:
    return area(scores, member).interval(confidence=bound.confidence)


def untrained(ground: Ground, twins: Sequence[tuple[str, str, RecordScores]], shadows: Shadows | None) -> tuple[Control, ...]:
    """Twins that know nothing: (control's name, model's id, scores). Together, not each, they may raise a false alarm."""
    controls = []
    for name, subject, scores in twins:
        attacks = attack_scores(scores, shadows, subject=subject, y=ground.y, others={})
        p = min(chances(attacks, ground.judged.member, ground.bound).values())
        quiet = not is_alarm(p, ground.bound, among=len(twins))
        told = f"{name} {'stayed quiet' if quiet else 'raised an alarm'} (p = {p:.2g})"
        controls.append(Control(name, False, quiet, True, None, told))
    return tuple(controls)
