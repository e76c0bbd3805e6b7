"""The verdict on an accuracy budget, as a pure decision: met, unproven (too few samples), or missed.

``pack`` ships met and unproven variants, the latter labelled; ``sign`` refuses unproven ones without
``--accept-unproven``. A missed variant is not emitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from packager.metrics import Estimate


class BudgetVerdict(Enum):
    """What the test data says about a declared ``accuracy_drop``; from best to worst."""

    MET = "met"
    UNPROVEN = "unproven"
    MISSED = "missed"


@dataclass(frozen=True)
class BudgetResult:
    """A verdict with what would settle it.

    ``samples_needed`` is the estimated number of test rows that would prove an unproven budget, ``None`` where the
    verdict is settled or the drop itself stands in the way.
    """

    verdict: BudgetVerdict
    allowed_drop: float
    samples_needed: int | None

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {"verdict": self.verdict.value, "accuracy_drop": self.allowed_drop, "samples_needed": self.samples_needed}


def judge_drop(drop: Estimate, *, allowed_drop: float, samples_needed: int | None) -> BudgetResult:
    """Compares the interval of the drop with the budget.

    Met if the whole interval is within the budget, missed if none of it is, unproven between. An interval that is not a number
    is missed: nothing was shown.
    """
    if drop.high <= allowed_drop:
        return BudgetResult(BudgetVerdict.MET, allowed_drop, None)
    if not drop.low <= allowed_drop:
        return BudgetResult(BudgetVerdict.MISSED, allowed_drop, None)
    return BudgetResult(BudgetVerdict.UNPROVEN, allowed_drop, samples_needed)


def worst_verdict(results: list[BudgetResult]) -> BudgetVerdict:
    """The verdict of a release that ships all of these."""
    order = list(BudgetVerdict)
    return max((result.verdict for result in results), key=order.index)
