"""Chooses among trials: which are allowed, which no other beats, and in what order they are offered. Pure decisions.

A variant is allowed if it is not larger than the file that was given, not slower (the lower end of its latency ratio's
interval is at most 1.02), and not shown to miss the budget on the rows that the search chooses by: its drop less one standard
error is within.
Those rows are few, so that a single one can be half a point; whether the budget is met is for the test part to say.

Among those the cost is the size times the latency ratio (or one of the two), and more for accuracy given up: the size is
a geometric mean of what the bundle stores, which travels, and, with a quarter of the weight, what the runtime gets. Using
the whole budget up must make a variant a fifth smaller or faster, and so must outputs whose error is ten times as large.
The error of the outputs tells variants apart where the metric cannot, and sees a loss before any row changes its class. It counts
the less, the further the upper end of the drop's interval is within the budget: then the metric has told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from packager.auto.trial import Trial
from packager.metrics import Z95

SLOWEST = 1.02
_RAW_SHARE = 0.25
_BUDGET_PRICE = 0.2  # in the logarithm of the cost, for a drop as large as the budget
_DECADE_PRICE = 0.2  # the same, for outputs whose squared error is ten times as large
_FREE_DISTORTION = 1e-5  # share of the outputs' variance; below it nothing is to be gained


def refusal(trial: Trial, *, max_bytes: int, allowed_drop: float, portable: bool) -> str | None:
    """Why a trial cannot ship for a device class, or ``None`` if it can."""
    if trial.model is None:
        return trial.failure or "failed"
    if trial.size_bytes > max_bytes:
        return f"larger than what was given: {trial.size_bytes} bytes against {max_bytes}"
    if not is_plausible(trial, allowed_drop=allowed_drop):
        return f"misses the budget on the rows that the search chooses by: drop {trial.drop:.4f}, allowed {allowed_drop:g}"
    if trial.latency is not None and trial.latency.low > SLOWEST:
        return f"slower than the original: {trial.latency.ratio:.2f} times its latency"
    if portable and not trial.is_portable:
        return "its sums can overflow on a CPU without VNNI"
    return None


def is_plausible(trial: Trial, *, allowed_drop: float) -> bool:
    """Whether the rows that the search chooses by leave it open that the budget is met."""
    return trial.model is not None and trial.drop - trial.spread <= allowed_drop


def cost(trial: Trial, *, max_bytes: int, allowed_drop: float, prefer: str) -> float:
    """What a variant costs, as a logarithm: lower is better, 0 is the original."""
    stored, raw = (math.log(max(size, 1) / max_bytes) for size in (trial.stored_bytes, trial.size_bytes))
    size = (1 - _RAW_SHARE) * stored + _RAW_SHARE * raw
    latency = math.log(max(trial.latency.ratio, 1e-3)) if trial.latency is not None else 0.0
    budget = max(allowed_drop, 1e-6)
    price = _BUDGET_PRICE * max(trial.drop, 0.0) / budget
    doubt = min(1.0, max(0.0, (trial.drop + Z95 * trial.spread) / budget))
    decades = max(0.0, math.log10(max(trial.distortion, _FREE_DISTORTION) / _FREE_DISTORTION))
    price += _DECADE_PRICE * doubt * decades
    return {"balanced": size + latency, "size": size, "latency": latency}[prefer] + price


def ranked(trials: Sequence[Trial], *, max_bytes: int, allowed_drop: float, prefer: str, portable: bool) -> list[Trial]:
    """The trials that may ship, cheapest first; ties go to the one that was tried first."""
    allowed = [
        trial for trial in trials if refusal(trial, max_bytes=max_bytes, allowed_drop=allowed_drop, portable=portable) is None
    ]
    return sorted(allowed, key=lambda trial: cost(trial, max_bytes=max_bytes, allowed_drop=allowed_drop, prefer=prefer))


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other beats in stored size, latency ratio and drop at once; an unmeasured latency counts as 1."""

    def figures(trial: Trial) -> tuple[float, float, float]:
        return trial.stored_bytes, 1.0 if trial.latency is None else trial.latency.ratio, trial.drop

    made = [trial for trial in trials if trial.model is not None]
    front = []
    for trial in made:
        mine = figures(trial)
        beaten = any(
            all(a <= b for a, b in zip(figures(other), mine, strict=True)) and figures(other) != mine
            for other in made
            if other is not trial
        )
        if not beaten:
            front.append(trial)
    return front
