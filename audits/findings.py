"""From groups to the findings of the family ``instance``: one finding for each model, controls, and every number for the page.

Between ``groups`` (statistics) and ``instance`` (the run of the family). What decides is in ``Finding`` and ``Control``; the rest
is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from audits.attacked import Attacked
from audits.data import AuditData
from audits.finding import Control, Finding
from audits.groups import Groups
from audits.instance_gap import STATISTICS, Pools, bootstrap_gaps, class_likeness, gap_interval
from audits.policy import Policy
from audits.statistics import binomial_limit, clopper_pearson, value_at
from audits.targets import Subject

Doubles = npt.NDArray[np.float64]
TEST = "inversion.instance"
_FEW_CLASSES = 7  # below, images of classes are too few to tell members by
_HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class JudgedControls:
    """The controls and the numbers behind them."""

    controls: tuple[Control, ...]
    shared: dict[str, Any]


def describe_controls(
    groups: Groups, controls: Mapping[str, Attacked], *, pools: Pools, policy: Policy, compressed: bool
) -> JudgedControls:
    """Judges the controls by the subjects' rule. None of them ran where classes are too thin; every finding says so then."""
    made = [name for name in controls if name.count(":") == 2 and name.startswith("planted:")]
    nulls = [name for name in controls if name == "class_mean" or name.startswith("untrained:")]
    planted = [_planted(groups, f"planted:{strength:g}", strength, pools, policy) for strength in policy.controls.planted_strengths]
    planted += [_planted(groups, name, float(name.split(":")[1]), pools, policy) for name in made]
    # together, and not each, they may raise a false alarm in a share alpha of the runs
    quiet = [_null(name, alarm=groups.alarms(name, among=len(nulls))) for name in nulls]
    again = _relabellings(groups, policy)
    shared = {
        "compressed": compressed,
        "planted": [
            {"strength": item.strength, **_control(groups, controls, item)} for item in planted if item.name.count(":") == 1
        ],
        "planted_compressed": [_control(groups, controls, item) for item in planted if item.name.count(":") == 2],
        "null": [_control(groups, controls, item) for item in quiet],
        "relabellings": again[1],
        "family": {"critical_p": groups.critical, "planted_p": groups.strict, "permutations": policy.decision.permutations},
        "drawn_per_side": [pool.size for pool in pools.classes],
        "thin": [list(item) for item in pools.thin],
    }
    return JudgedControls((*planted, *quiet, again[0]), shared)


def describe_subjects(
    groups: Groups, subjects: Sequence[Subject], attacked: Mapping[str, Attacked], *, data: AuditData, pools: Pools, policy: Policy
) -> tuple[dict[str, tuple[Finding, ...]], dict[str, dict[str, Any]]]:
    """Finding and numbers of every model, by its id; the first is the original."""
    boots = _bootstraps(groups, policy)
    first = subjects[0].id
    findings: dict[str, tuple[Finding, ...]] = {}
    details: dict[str, dict[str, Any]] = {}
    for subject in subjects:
        item = attacked[subject.id]
        deltas = [] if subject.id == first else _deltas(groups, subject.id, first, attacked, boots, policy)
        tests = _tests(groups, subject.id, item, boots, policy)
        findings[subject.id] = (_finding(groups, subject.id, item, tests, deltas, pools, policy, is_original=subject.id == first),)
        details[subject.id] = {
            "access": _access(item),
            "attacks": [_attack(item, index, data, pools) for index in range(len(item.reconstructions))],
            "tests": tests,
            "delta": deltas,
        }
    return findings, details


def _finding(
    groups: Groups,
    name: str,
    item: Attacked,
    tests: Sequence[Mapping[str, Any]],
    deltas: Sequence[Mapping[str, Any]],
    pools: Pools,
    policy: Policy,
    *,
    is_original: bool,
) -> Finding:
    """All attacks and statistics of one model as one test; estimate and interval are of its strongest mean gap."""
    blind, undone, doubts = [], [], []
    if pools.thin:
        minimum = policy.decision.min_records_per_class
        blind.append(f"{len(pools.thin)} classes have fewer than {minimum} members or held-outs")
    if item.blocked is not None:
        blind.append(item.blocked)
    elif item.parity is None or not item.parity.holds:
        blind.append("the bridge does not reproduce the runtime")
    converged = item.converged_share(min_confidence=policy.inversion.min_confidence)
    if converged < policy.inversion.min_converged_share:
        undone.append(f"attacks converged on {converged:.0%} of the classes only")
    if not is_original and not item.transferred:
        undone.append("the original's reconstructions could not be tried")
    if item.strange_labels is not None:
        undone.append(item.strange_labels)
    lowest = max((delta["interval"][0] for delta in deltas), default=None)
    if lowest is not None and lowest > policy.decision.delta_warning:
        doubts.append(f"compression raises the gap by at least {lowest:.3f}")
    mean = min((test for test in tests if test["statistic"] == "mean"), key=lambda test: float(test["p_value"]), default=None)
    return Finding(
        test=TEST,
        p_value=groups.p_value(name),
        p_adjusted=groups.adjusted(name),
        statistic="mean_gap",
        estimate=None if mean is None else mean["estimate"],
        interval=None if mean is None else (mean["interval"][0], mean["interval"][1]),
        threshold=None if mean is None else mean["threshold"],
        blind=tuple(blind),
        undone=tuple(undone),
        doubts=tuple(doubts),
    )


def _planted(groups: Groups, name: str, strength: float, pools: Pools, policy: Policy) -> Control:
    """Caught, or not; those from the last strength on that the policy allows to be missed must be caught."""
    settings = policy.controls
    needed = max((item for item in settings.planted_strengths if item <= settings.planted_required), default=0.0)
    caught = groups.catches(name)
    told = f"a planted leak of strength {strength:g} was {'caught' if caught else 'not caught'}"
    if name.count(":") == 2:
        told = f"the compressed planted leak {name} was {'caught' if caught else 'not caught'}"
    if not caught and len(pools.classes) < _FEW_CLASSES:
        told += f" (with {len(pools.classes)} classes this test sees little; docs/audit-method.md, *Few classes*, says what to ask)"
    return Control(name, planted=True, held=caught, required=strength >= needed, strength=strength, told=told)


def _null(name: str, *, alarm: bool) -> Control:
    told = f"the null control {name} {'raised an alarm' if alarm else 'stayed quiet'}"
    return Control(name, planted=False, held=not alarm, required=True, strength=None, told=told)


def _relabellings(groups: Groups, policy: Policy) -> tuple[Control, dict[str, Any]]:
    """Fresh relabelled memberships of the real reconstructions, against how many alarms chance explains."""
    alarms, trials = groups.fresh_alarms()
    limit = binomial_limit(trials, rate=policy.decision.alpha) if trials else 0
    told = f"{alarms} of {trials} relabelled memberships raised an alarm, chance explains {limit}"
    control = Control("relabellings", planted=False, held=alarms <= limit, required=True, strength=None, told=told)
    interval = list(clopper_pearson(alarms, trials)) if trials else [0.0, 1.0]
    return control, {"alarms": alarms, "trials": trials, "limit": limit, "interval95": interval}


def _control(groups: Groups, controls: Mapping[str, Attacked], control: Control) -> dict[str, Any]:
    name = control.name
    item = controls.get(name)
    converged = 0.0 if item is None or not item.own else float(np.max([r.best_confidence() for r in item.own], axis=0).min())
    outcome = {"caught": control.held} if control.planted else {"alarm": not control.held}
    numbers = {"p_value": groups.p_value(name), "adjusted": groups.adjusted(name), "least_confidence": converged}
    return {"name": name, **outcome, **numbers}


def _bootstraps(groups: Groups, policy: Policy) -> dict[str, Doubles]:
    """Bootstrap samples of the mean gap for the subjects' reconstructions only."""
    rows = [row for name in groups.subjects for row in groups.rows.get(name, ())]
    if not rows:
        return {}
    samples = bootstrap_gaps([groups.items[row] for row in rows], resamples=policy.decision.bootstraps, seed=policy.seed)
    where = {row: index for index, row in enumerate(rows)}
    return {name: samples[[where[row] for row in groups.rows[name]]] for name in groups.subjects if groups.rows.get(name)}


def _tests(groups: Groups, name: str, item: Attacked, boots: Mapping[str, Doubles], policy: Policy) -> list[dict[str, Any]]:
    """Every test of one subject: statistic, threshold from the null, p-value; for the mean also interval and classes."""
    if groups.table is None or groups.p_values is None or name not in groups.combined:
        return []
    level = groups.test_level(name)
    tests = []
    for index, row in enumerate(groups.rows[name]):
        for column, statistic in enumerate(STATISTICS):
            null = groups.table.values[row, column, : groups.table.reference]
            threshold = value_at(null, p_value=level)
            test: dict[str, Any] = {
                "attack": item.reconstructions[index].attack,
                "statistic": statistic,
                "estimate": float(null[0]),
                "threshold": threshold if math.isfinite(threshold) else None,
                "p_value": float(groups.p_values[row, column, 0]),
                "null": _histogram(null),
            }
            if statistic == "mean":
                test["interval"] = list(gap_interval(boots[name][index], confidence=policy.decision.confidence))
                test["by_class"] = [float(gap) for gap in groups.table.by_class[row]]
            tests.append(test)
    return tests


def _deltas(
    groups: Groups, name: str, first: str, attacked: Mapping[str, Attacked], boots: Mapping[str, Doubles], policy: Policy
) -> list[dict[str, Any]]:
    """Mean gap of the variant minus the original's, attack by attack, paired over classes and records.

    The intervals are widened for the number of attacks (Bonferroni), since the warning looks at the highest of them.
    """
    if groups.table is None or name not in boots or first not in boots:
        return []
    attacks = [item.attack for item in attacked[name].own]
    confidence = 1.0 - (1.0 - policy.decision.confidence) / max(1, len(attacks))
    gaps = groups.table.values[:, 0, 0]
    return [
        {
            "attack": attack,
            "estimate": float(gaps[groups.rows[name][index]] - gaps[groups.rows[first][index]]),
            "interval": list(gap_interval(boots[name][index] - boots[first][index], confidence=confidence)),
        }
        for index, attack in enumerate(attacks)
    ]


def _attack(item: Attacked, index: int, data: AuditData, pools: Pools) -> dict[str, Any]:
    reconstruction = item.reconstructions[index]
    likeness, retrieved = class_likeness(reconstruction.best_images(), data, pools) if not pools.thin else (np.zeros(0), 0)
    entry: dict[str, Any] = {
        "attack": reconstruction.attack,
        "confidence": [round(float(value), 6) for value in reconstruction.best_confidence()],
        "class_likeness": [round(float(value), 6) for value in likeness],
        "classes_retrieved": retrieved,
    }
    if index >= len(item.own):
        transfer = index - len(item.own)
        entry["accepted_classes"] = item.accepted[transfer]
        entry["transfer_confidence"] = item.transfer_confidence[transfer]
    return entry


def _access(item: Attacked) -> dict[str, Any]:
    parity = item.parity
    return {
        **dict(item.access),
        "masked_gradient": list(item.masked),
        "accuracy_members": item.accuracy_members,
        "accuracy_heldouts": item.accuracy_heldouts,
        "parity": None
        if parity is None
        else {
            "max_difference": parity.max_difference if math.isfinite(parity.max_difference) else None,
            "bound": parity.bound,
            "rows": parity.rows,
            "quantised": parity.quantised,
        },
    }


def _histogram(null: Doubles) -> dict[str, Any]:
    counts, edges = np.histogram(null, bins=_HISTOGRAM_BINS)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": [int(count) for count in counts]}
