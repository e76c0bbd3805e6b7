"""What is told of a search: every trial, the Pareto front, the choice and the reasons.

For the measurements file, the page and ``--explain``; never in the bundle, since the course of a search depends on a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from packager.auto.choice import pareto_front, refusal
from packager.auto.search import SearchResult
from packager.auto.settings import AutoPlan
from packager.auto.trial import Trial, describe_chain


@dataclass(frozen=True)
class SearchRecord:
    """A search with what became of its best trials on the test part.

    ``chosen``: per device class, ``None`` where the original ships. ``rejected``: trials that were offered and turned out to
    miss the budget on the test part, with the reason; each is one reading of that part.
    """

    result: SearchResult
    plan: AutoPlan
    max_bytes: int
    allowed_drop: float
    chosen: tuple[tuple[str, Trial | None], ...]
    rejected: tuple[tuple[Trial, str], ...]

    def reason(self, trial: Trial) -> str:
        """What became of a trial, in words."""
        for kind, chosen in self.chosen:
            if chosen is trial:
                return f"chosen for {kind}"
        for rejected, why in self.rejected:
            if rejected is trial:
                return f"on the test part: {why}"
        portable = self.plan.classes == ("portable",)
        found = refusal(trial, max_bytes=self.max_bytes, allowed_drop=self.allowed_drop, portable=portable)
        return found or "costs more than what was chosen"


def search_json(record: SearchRecord) -> dict[str, object]:
    """The search as it stands in the measurements file."""
    front = {id(trial) for trial in pareto_front(record.result.trials)}
    return {
        "chosen_by": record.result.rows_from,
        "rows": record.result.rows,
        "ended": record.result.ended,
        "prefer": record.plan.prefer,
        "chosen": {kind: None if trial is None else describe_chain(trial.chain) for kind, trial in record.chosen},
        "trials": [
            {
                "id": trial.id,
                "chain": describe_chain(trial.chain),
                "bytes": trial.size_bytes,
                "stored_bytes": trial.stored_bytes,
                "drop": None if trial.model is None else _finite(trial.drop),
                "spread": None if trial.model is None else _finite(trial.spread),
                "latency": None if trial.latency is None else trial.latency.to_json(),
                "portable": trial.is_portable,
                "pareto": id(trial) in front,
                "outcome": record.reason(trial),
            }
            for trial in record.result.trials
        ],
    }


def explanation(record: SearchRecord) -> list[str]:
    """The decision in lines for people: the front, the choice, and why the others did not make it."""
    result = record.result
    lines = [
        f"searched  {len(result.trials)} trials, {result.ended}; chosen by {result.rows} rows of {result.rows_from}, "
        f"allowed drop {record.allowed_drop:g}, preferring {record.plan.prefer}"
    ]
    front = {id(trial) for trial in pareto_front(result.trials)}
    for trial in result.trials:
        mark = "*" if id(trial) in front else " "
        figures = "no model"
        if trial.model is not None:
            latency = "-" if trial.latency is None else f"{trial.latency.ratio:.2f}"
            figures = f"{trial.size_bytes} bytes, {trial.stored_bytes} stored, drop {trial.drop:+.4f}, latency {latency}"
        lines.append(f"  {mark} {describe_chain(trial.chain)}: {figures}; {record.reason(trial)}")
    lines.append("  (* no other trial is smaller, faster and more accurate at once)")
    return lines


def _finite(value: float) -> float | None:
    return round(value, 6) if abs(value) < 1e300 else None
