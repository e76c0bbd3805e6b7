"""From the table of statistics to findings: p-values by group, thresholds, controls, deltas, every number for the report.

A *group* is one model with all its reconstructions. The family of the run is the original and the variants; controls are
judged by the very same rule and are no part of the family.
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
from audits.evidence import SubjectEvidence
from audits.instance_gap import STATISTICS, GapTable, Likeness, Pools, bootstrap_gaps, class_likeness, gap_interval
from audits.policy import Policy
from audits.statistics import binomial_limit, clopper_pearson, critical_value, value_at
from audits.targets import Subject
from audits.verdict import RunFindings, SubjectFindings, rule

Doubles = npt.NDArray[np.float64]
_HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class Groups:
    """All groups judged under one null distribution.

    Attributes:
        subjects: names of the family.
        rows: rows of ``table`` for each group.
        combined: p-value of each group under every labelling, (columns,).
        family: the smallest p-value over the family's groups under every labelling, (columns,).
        critical: a group raises an alarm when its p-value is at most this.
    """

    subjects: tuple[str, ...]
    items: Sequence[Likeness]
    table: GapTable | None
    p_values: Doubles | None
    rows: Mapping[str, Sequence[int]]
    combined: Mapping[str, Doubles]
    family: Doubles
    critical: float

    @classmethod
    def empty(cls, subjects: tuple[str, ...]) -> Groups:
        """Nothing could be judged: every p-value is 1."""
        return cls(subjects, (), None, None, {}, {}, np.ones(1), 0.0)

    @classmethod
    def build(
        cls,
        subjects: tuple[str, ...],
        *,
        items: Sequence[Likeness],
        table: GapTable,
        p_values: Doubles,
        rows: Mapping[str, Sequence[int]],
        combined: Mapping[str, Doubles],
        alpha: float,
    ) -> Groups:
        """Makes the family's null distribution and its critical value.

        The critical value is the alpha quantile of the smallest p-value over the family under relabelled memberships
        (single-step min-p, Westfall and Young 1993): it depends on alpha and on the null, never on the true labels' result
        beyond their one column among thousands.
        """
        judged = [combined[name] for name in subjects if name in combined]
        # without a judged subject controls still run, each as a family of its own
        family = np.min(judged, axis=0) if judged else next(iter(combined.values()))
        return cls(subjects, items, table, p_values, rows, combined, family, critical_value(family[: table.reference], alpha=alpha))

    def p_value(self, name: str) -> float:
        """P-value of one group under the true labels."""
        return float(self.combined[name][0]) if name in self.combined else 1.0

    def adjusted(self, name: str) -> float:
        """The same, for the whole family."""
        if name not in self.combined or self.table is None:
            return 1.0
        return float(np.mean(self.family[: self.table.reference] <= self.combined[name][0]))

    def alarms(self, name: str, *, among: int = 1) -> bool:
        """True if this group would fail; ``among`` shares the alarm rate between that many groups (Bonferroni)."""
        return name in self.combined and float(self.combined[name][0]) <= self.critical / among

    def strongest(self, name: str) -> int:
        """Index of the reconstruction with the smallest p-value; 0 where nothing was judged."""
        if self.p_values is None or not self.rows.get(name):
            return 0
        return int(np.argmin(self.p_values[list(self.rows[name]), :, 0].min(axis=1)))

    def test_level(self, name: str) -> float:
        """The p-value that a single test of this group must reach for the group to raise an alarm."""
        if self.p_values is None or self.table is None:
            return 0.0
        reference = self.table.reference
        smallest = self.p_values[list(self.rows[name])].reshape(-1, self.p_values.shape[-1]).min(axis=0)[:reference]
        return critical_value(smallest, alpha=self.critical)


@dataclass(frozen=True)
class ControlFindings:
    """Findings of the controls and the numbers behind them."""

    run: RunFindings
    detail: dict[str, Any]


def describe_controls(
    groups: Groups, controls: Mapping[str, Attacked], *, pools: Pools, policy: Policy, compressed: bool
) -> ControlFindings:
    """Judges the controls by the subjects' rule."""
    strengths = policy.controls.planted_strengths
    caught = {strength: groups.alarms(f"planted:{strength:g}") for strength in strengths}
    smallest = None
    for strength in reversed(strengths):
        if not caught[strength]:
            break
        smallest = strength
    made = [name for name in controls if name.count(":") == 2 and name.startswith("planted:")]
    nulls = [name for name in controls if name == "class_mean" or name.startswith("untrained:")]
    # together, and not each, they may raise a false alarm in a share alpha of the runs
    loud = tuple(name for name in nulls if groups.alarms(name, among=len(nulls)))
    alarms, trials = _fresh_alarms(groups)
    run = RunFindings(
        thin_classes=len(pools.thin),
        smallest_caught=smallest,
        compressed_missed=tuple(name for name in made if not groups.alarms(name)),
        null_alarms=loud,
        relabelling_alarms=alarms,
        relabelling_limit=binomial_limit(trials, rate=policy.decision.alpha) if trials else 0,
    )
    detail = {
        "compressed": compressed,
        "planted": [
            {"name": f"planted:{s:g}", "strength": s, "caught": caught[s], **_control(groups, controls, f"planted:{s:g}")}
            for s in strengths
        ],
        "planted_compressed": [{"name": name, "caught": groups.alarms(name), **_control(groups, controls, name)} for name in made],
        "null": [{"name": name, "alarm": name in loud, **_control(groups, controls, name)} for name in nulls],
        "relabellings": {
            "alarms": alarms,
            "trials": trials,
            "interval95": list(clopper_pearson(alarms, trials)) if trials else [0.0, 1.0],
        },
        "family": {"critical_p": groups.critical, "permutations": policy.decision.permutations},
    }
    return ControlFindings(run, detail)


def describe_subjects(
    groups: Groups,
    subjects: Sequence[Subject],
    attacked: Mapping[str, Attacked],
    controls: ControlFindings,
    *,
    data: AuditData,
    pools: Pools,
    policy: Policy,
) -> tuple[SubjectEvidence, ...]:
    """Findings, ruling and numbers of every subject, in the order given; the first is the original."""
    boots = _bootstraps(groups, policy)
    first = subjects[0].id
    evidence = []
    for subject in subjects:
        item = attacked[subject.id]
        deltas = [] if subject.id == first else _deltas(groups, subject.id, first, attacked, boots, policy)
        findings = SubjectFindings(
            blocked=item.blocked,
            parity_holds=item.parity is not None and item.parity.holds,
            converged_share=item.converged_share(min_confidence=policy.inversion.min_confidence),
            transfer_tested=subject.id == first or bool(item.transferred),
            p_value=groups.p_value(subject.id),
            p_adjusted=groups.adjusted(subject.id),
            delta_lower=max((delta["interval"][0] for delta in deltas), default=None),
        )
        ruling = rule(findings, controls.run, policy)
        detail = {
            "access": _access(item),
            "attacks": [_attack(item, index, data, pools) for index in range(len(item.reconstructions))],
            "tests": _tests(groups, subject.id, item, boots, policy),
            "delta": deltas,
        }
        evidence.append(
            SubjectEvidence(
                subject.id, subject.model.digest, len(subject.model.data), ruling.verdict, ruling.reasons, findings, detail
            )
        )
    return tuple(evidence)


def _fresh_alarms(groups: Groups) -> tuple[int, int]:
    """How many fresh relabellings would have failed at least one subject."""
    if groups.table is None:
        return 0, 0
    fresh = groups.family[groups.table.reference :]
    return int(np.sum(fresh <= groups.critical)), len(fresh)


def _control(groups: Groups, controls: Mapping[str, Attacked], name: str) -> dict[str, Any]:
    item = controls.get(name)
    converged = 0.0 if item is None or not item.own else float(np.max([r.best_confidence() for r in item.own], axis=0).min())
    return {"p_value": groups.p_value(name), "adjusted": groups.adjusted(name), "least_confidence": converged}


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
