"""All groups of reconstructions under one null distribution: p-values, the family's critical value, who raises an alarm.

A *group* is one model with all its reconstructions. Original and variants share one null distribution; controls are judged by
the very same rule and are no part of it. Pure: values in, values out (``instance_gap`` makes the table).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.instance_gap import GapTable, Likeness
from audits.policy import Policy
from audits.statistics import critical_value

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """All groups judged under one null distribution.

    Attributes:
        subjects: names of the family.
        rows: rows of ``table`` for each group.
        combined: p-value of each group under every labelling, (columns,).
        family: the smallest p-value over the family's groups under every labelling, (columns,).
        critical: a group raises an alarm when its p-value is at most this.
        strict: the same where other families run too: a planted leak must reach it.
    """

    subjects: tuple[str, ...]
    items: Sequence[Likeness]
    table: GapTable | None
    p_values: Doubles | None
    rows: Mapping[str, Sequence[int]]
    combined: Mapping[str, Doubles]
    family: Doubles
    critical: float
    strict: float

    @classmethod
    def empty(cls, subjects: tuple[str, ...]) -> Groups:
        """Nothing could be judged: every p-value is 1."""
        return cls(subjects, (), None, None, {}, {}, np.ones(1), 0.0, 0.0)

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
        policy: Policy,
    ) -> Groups:
        """Makes the family's null distribution and its critical value.

        The critical value is the alpha quantile of the smallest p-value over the family under relabelled memberships
        (single-step min-p, Westfall and Young 1993): it depends on alpha and on the null, never on the true labels' result
        beyond their one column among thousands.
        """
        judged = [combined[name] for name in subjects if name in combined]
        # without a judged subject controls still run, each as a family of its own
        family = np.min(judged, axis=0) if judged else next(iter(combined.values()))
        null = family[: table.reference]
        critical = critical_value(null, alpha=policy.decision.alpha)
        strict = critical_value(null, alpha=policy.strictest_alpha)
        return cls(subjects, items, table, p_values, rows, combined, family, critical, strict)

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

    def catches(self, name: str) -> bool:
        """True if this group would fail whatever else runs."""
        return name in self.combined and float(self.combined[name][0]) <= self.strict

    def strongest(self, name: str, *, begin: int = 0, until: int | None = None) -> int:
        """Index of the reconstruction with the smallest p-value, among those from ``begin``; ``begin`` where nothing was judged."""
        if self.p_values is None or not self.rows.get(name):
            return begin
        return begin + int(np.argmin(self.p_values[list(self.rows[name])[begin:until], :, 0].min(axis=1)))

    def test_level(self, name: str) -> float:
        """The p-value that a single test of this group must reach for the group to raise an alarm."""
        if self.p_values is None or self.table is None:
            return 0.0
        reference = self.table.reference
        smallest = self.p_values[list(self.rows[name])].reshape(-1, self.p_values.shape[-1]).min(axis=0)[:reference]
        return critical_value(smallest, alpha=self.critical)

    def fresh_alarms(self) -> tuple[int, int]:
        """How many fresh relabellings would have failed at least one subject, and how many there were."""
        if self.table is None:
            return 0, 0
        fresh = self.family[self.table.reference :]
        return int(np.sum(fresh <= self.critical)), len(fresh)
