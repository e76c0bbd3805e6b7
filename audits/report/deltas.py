"""What compression changed: variant minus original, for every family that measures it as a paired difference."""

from __future__ import annotations

from dataclasses import dataclass

from audits.report import words
from audits.report.forest import ForestRow, forest
from audits.report.membership import ATTACK_TESTS
from audits.report.overview import INSTANCE
from audits.report.parts import figure, note, section
from audits.report.read import interval, number, objects, optional, text
from audits.report.retrieval import BLACK_BOX, LABEL_ONLY, by_queries, swap_splits
from audits.report.view import PageView


@dataclass(frozen=True)
class _Row:
    """One difference; ``by`` names the attack, empty where there is one only."""

    model: str
    by: str
    estimate: float
    interval: tuple[float, float] | None
    bound: float | None = None

    def drawn(self) -> ForestRow:
        """The line of the plot."""
        return ForestRow(f"{self.model}, {self.by}" if self.by else self.model, self.estimate, self.interval, self.bound)


def deltas(view: PageView) -> str:
    """One forest for each statistic; absent where nothing was measured against the original."""
    groups = {
        "instance gap, correlation": _instance(view),
        "swap-split gap, correlation": _swap_split(view),
        "gap of images by scores, correlation": _queries(view, BLACK_BOX),
        "gap of images by labels, correlation": _queries(view, LABEL_ONLY),
        **_membership(view),
    }
    groups = {title: rows for title, rows in groups.items() if rows}
    told = (
        "Each variant minus the original, paired by class and record. Around zero: compression neither hides nor adds a leak. Left "
        "of zero is no protection by itself: it can be a weaker attack."
    )
    bound = (
        f" The upright tick is where the policy warns: a lower end above {view.policy.gap_delta:g}."
        if groups.get("instance gap, correlation")
        else ""
    )
    drawn = [figure(forest(f"change of {title}", [row.drawn() for row in rows])) for title, rows in groups.items()]
    return section("Compressed against original", note(told + bound), *drawn) if groups else ""


def _instance(view: PageView) -> list[_Row]:
    return [
        _Row(subject.id, text(entry["attack"]), number(entry["estimate"]), interval(entry["interval"]), view.policy.gap_delta)
        for subject, told in view.details(INSTANCE)
        for entry in objects(told.get("delta") or ())
    ]


def _swap_split(view: PageView) -> list[_Row]:
    return [
        _Row(item.subject.id, "", item.delta, item.delta_interval)
        for item in swap_splits(view)
        if item.delta is not None and not item.subject.is_original
    ]


def _queries(view: PageView, test: str) -> list[_Row]:
    return [
        _Row(item.subject.id, "", item.delta, item.delta_interval)
        for item in by_queries(view, test)
        if item.delta is not None and not item.subject.is_original
    ]


def _membership(view: PageView) -> dict[str, list[_Row]]:
    """By statistic: the area, then the true positive rate that the policy asks about."""
    found: dict[str, list[_Row]] = {}
    for subject, told in view.details(*ATTACK_TESTS):
        for entry in objects(told.get("delta") or ()):
            attack = words.attack(text(entry["attack"]))
            area = _Row(subject.id, attack, number(entry["auc"]), optional(interval, entry.get("auc_interval")))
            found.setdefault("membership, area under the ROC", []).append(area)
            if entry.get("tpr") is not None:
                rate = _Row(subject.id, attack, number(entry["tpr"]), optional(interval, entry.get("tpr_interval")))
                found.setdefault(f"membership, TPR at FPR {number(entry['fpr']):.3g}", []).append(rate)
    return found
