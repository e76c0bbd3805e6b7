"""C1 to C15 from what was measured: pure functions of rows and studies, so that tests can feed them.

A goal without its row is unmeasured and says why; none is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.compression_row import MAX_HALF_WIDTH, PEERS_COUNTED, Made, Row
from benchmarks.results_file import Goal
from packager.budget import BudgetVerdict

KB = 1000
SMALL_BYTES = 100 * KB
_MIN_NATURAL_ROWS = 500
_CAPABLE = "vnni"


@dataclass(frozen=True)
class Found:
    """Everything that one run measured.

    ``rows``: by model. ``judged``, ``third_party``, ``cases``, ``broken``: ids of rows. ``errors``: why a row is missing.
    ``losses``: per emulated CPU, by row: what the metric loses there, or why that is unknown. ``studies``: results of the two
    examples, or why there are none.
    """

    rows: Mapping[str, Row]
    judged: Sequence[str] = ()
    third_party: Sequence[str] = ()
    cases: Sequence[str] = ()
    broken: Sequence[str] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, float | str] | str] = field(default_factory=dict)
    studies: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)
    cpu_features: Sequence[str] = ()

    def why(self, *ids: str) -> str:
        """Why rows are missing."""
        return "; ".join(f"{name}: {self.errors.get(name, 'not run')}" for name in ids if name not in self.rows)


def goals(found: Found) -> list[Goal]:
    """All of them, in order."""
    return [
        *budget_goals(found),
        *never_worse_goals(found),
        *kws_goals(found),
        *resnet8_goals(found),
        *size_goals(found),
        *broken_goals(found),
        emulation_goal(found),
        *study_goals(found),
    ]


def counts_as_met(row: Row) -> str:
    """``met``, ``unproven`` where the point estimate is in the budget and the needed sample is known, or ``no``.

    FP32 in place of a compressed model counts only where no peer's quantised model is in the budget.
    """
    evaluation = row.ours.evaluation
    if evaluation is None or (row.is_fallback and any(peer.within for peer in row.peers)):
        return "no"
    if evaluation.budget.verdict is BudgetVerdict.MET:
        return "met"
    return "unproven" if row.ours.within and evaluation.budget.samples_needed is not None else "no"


def budget_goals(found: Found) -> list[Goal]:
    """C1."""
    wanted = [*found.judged, *found.cases]
    what = "models with data that `auto` brings within their budget"
    if not any(name in found.rows for name in wanted):
        return [_unmeasured("C1", what, ">=", float(len(wanted)), "models", found.why(*wanted))]
    verdicts = {name: counts_as_met(found.rows[name]) if name in found.rows else "no" for name in wanted}
    met, unproven = (sum(verdict == word for verdict in verdicts.values()) for word in ("met", "unproven"))
    others = ", ".join(name for name, verdict in verdicts.items() if verdict == "no")
    told = f"{what} ({met} met, {unproven} unproven{f', not: {others}' if others else ''})"
    return [Goal("C1", told, float(met + unproven), ">=", float(len(wanted)), "models")]


def never_worse_goals(found: Found) -> list[Goal]:
    """C2: latency by its interval's lower end, its half width, and size."""
    made = {name: row for name, row in found.rows.items() if row.ours.size_bytes is not None}
    timed = {name: row.ours.latency for name, row in made.items() if row.ours.latency is not None}
    if not made:
        why = found.why(*found.third_party, *found.cases)
        return [_unmeasured("C2", "output no slower than its input (lower end)", "<=", 1.02, "times", why)]
    sizes = {name: (row.ours.size_bytes or 0) / row.source_bytes for name, row in made.items()}
    fattest = max(sizes, key=lambda name: sizes[name])
    size = Goal("C2-size", f"output to its input, raw bytes, worst ({fattest})", sizes[fattest], "<=", 1.0, "times")
    if not timed:
        return [_unmeasured("C2", "output no slower than its input (lower end)", "<=", 1.02, "times", "none could be timed"), size]
    if untimed := sorted(set(made) - set(timed)):
        what = f"output no slower than its input (lower end), of those timed; not timed: {', '.join(untimed)}"
        return [_unmeasured("C2", what, "<=", 1.02, "times", "a model could not be timed"), size]
    slowest = max(timed, key=lambda name: timed[name].low)
    half = {name: (ratio.high - ratio.low) / 2 for name, ratio in timed.items()}
    widest = max(half, key=lambda name: half[name])
    return [
        Goal("C2", f"output to its input, latency, lower end, worst ({slowest})", timed[slowest].low, "<=", 1.02, "times"),
        Goal("C2-width", f"half width of the latency interval, worst ({widest})", half[widest], "<=", MAX_HALF_WIDTH, "times"),
        size,
    ]


def kws_goals(found: Found) -> list[Goal]:
    """C3, C4."""
    size, right = ("C3", "kws: model, raw", "<=", 30.0, "KB"), ("C4", "kws: accuracy on the 800 test clips", ">=", 91.2, "%")
    row = found.rows.get("kws")
    if row is None or row.ours.size_bytes is None or row.ours.evaluation is None:
        why = found.why("kws") if row is None else row.ours.note
        return [_unmeasured(*size, why), _unmeasured(*right, why)]
    estimate = row.ours.evaluation.estimate
    return [
        Goal(size[0], size[1], row.ours.size_bytes / KB, *size[2:]),
        Goal(right[0], f"{right[1]} (of {estimate.samples})", 100 * estimate.value, *right[2:]),
    ]


def resnet8_goals(found: Found) -> list[Goal]:
    """C5, on a CPU with VNNI only."""
    time = ("C5", "resnet8: latency to FP32", "<=", 0.56, "times")
    same = ("C5-agreement", "resnet8: top-1 as FP32 on natural inputs", ">=", 99.0, "%")
    row = found.rows.get("resnet8")
    if row is None or row.ours.evaluation is None:
        why = found.why("resnet8") if row is None else row.ours.note
        return [_unmeasured(*time, why), _unmeasured(*same, why)]
    estimate = row.ours.evaluation.estimate
    if estimate.samples < _MIN_NATURAL_ROWS:
        raise ValueError(f"C5 wants {_MIN_NATURAL_ROWS} inputs, not {estimate.samples}")
    agreement = Goal(same[0], f"{same[1]} ({estimate.samples} patches)", 100 * estimate.value, *same[2:])
    if not any(_CAPABLE in feature for feature in found.cpu_features):
        return [_unmeasured(*time, "this CPU has no VNNI"), agreement]
    if row.ours.latency is None:
        return [_unmeasured(*time, row.ours.note), agreement]
    return [Goal(time[0], time[1], row.ours.latency.ratio, *time[2:]), agreement]


def size_goals(found: Found) -> list[Goal]:
    """C6 raw against the static default; C7 and C8 stored against FP32 raw."""
    small = {}
    for name, row in found.rows.items():
        peer = _size_of(row, PEERS_COUNTED)
        if row.source_bytes < SMALL_BYTES and peer and row.ours.size_bytes and name not in found.broken:
            small[name] = peer / row.ours.size_bytes
    least = min(small, key=lambda name: small[name], default="")
    what = f"smaller than onnxruntime's static default, raw, models under 100 KB, least ({least})"
    sixth = (
        Goal("C6", what, small[least], ">=", 1.45, "times")
        if small
        else _unmeasured(
            "C6", "smaller than onnxruntime's static default, raw, under 100 KB", ">=", 1.45, "times", found.why("kws", "mnist")
        )
    )
    return [sixth, _seventh(found), _eighth(found)]


def _seventh(found: Found) -> Goal:
    goal = ("C7", "stored to FP32 raw, third-party networks, geometric mean", ">=", 3.8, "times")
    missing = [name for name in found.third_party if name not in found.rows or found.rows[name].ours.stored_bytes is None]
    if len(missing) == len(found.third_party):
        return _unmeasured(*goal, found.why(*missing) or "nothing was packed")
    # A network that could not be packed counts as shrunk not at all.
    ratios = [1.0] * len(missing)
    ratios += [
        len(found.rows[name].fp32) / (found.rows[name].ours.stored_bytes or 1) for name in found.third_party if name not in missing
    ]
    left = f"; as 1.0: {', '.join(missing)}" if missing else ""
    told = f"{goal[1]} ({len(ratios)}{left})"
    return Goal(goal[0], told, math.exp(sum(map(math.log, ratios)) / len(ratios)), *goal[2:])


def _eighth(found: Found) -> Goal:
    goal = ("C8", "packed to the FP32 network it replaces, stored, the two cases, geometric mean", ">=", 15.0, "times")
    studies = {name: study for name, study in found.studies.items() if not isinstance(study, str)}
    if len(studies) < 2:
        return _unmeasured(*goal, _no_study(found, "wearable", "factory"))
    ratios = [float(study["times_smaller_stored"]) for study in studies.values()]
    return Goal(goal[0], goal[1], math.exp(sum(map(math.log, ratios)) / len(ratios)), *goal[2:])


def broken_goals(found: Found) -> list[Goal]:
    """C9: ours within the budget, compressed; and that the static default is not."""
    held, beaten, told = 0, 0, []
    for name in found.broken:
        row = found.rows.get(name)
        if row is None:
            continue
        static = row.peer(PEERS_COUNTED)
        held += counts_as_met(row) != "no" and not row.is_fallback
        beaten += not static.within
        told.append(f"{name}: ours {_drop(row.ours)}, static default {_drop(static)}")
    count = float(len(found.broken))
    what = "networks with a -1e9 mask, or GELU and LayerNorm, within their budget"
    if not told:
        return [_unmeasured("C9", what, ">=", count or 2.0, "networks", found.why(*found.broken) or "not run")]
    return [
        Goal("C9", f"{what} ({'; '.join(told)})", float(held), ">=", count, "networks"),
        Goal("C9-static", "of those, broken by onnxruntime's static default", float(beaten), ">=", count, "networks"),
    ]


def emulation_goal(found: Found) -> Goal:
    """C10: the worst loss on any emulated CPU."""
    what = "what a metric loses on an emulated Haswell or aarch64 (fraction), worst"
    known: dict[str, float] = {}
    reasons = []
    for cpu, losses in found.losses.items():
        if isinstance(losses, str):
            reasons.append(f"{cpu}: {losses}")
            continue
        known |= {f"{name} on {cpu}": loss for name, loss in losses.items() if not isinstance(loss, str)}
        reasons += [f"{name} on {cpu}: {loss}" for name, loss in losses.items() if isinstance(loss, str)]
    if not known:
        return _unmeasured("C10", what, "<=", 0.005, "", "; ".join(reasons) or "not run")
    worst = max(known, key=lambda name: known[name])
    left = f"; not: {'; '.join(reasons)}" if reasons else ""
    return Goal("C10", f"{what} ({worst}; {len(known)} pairs{left})", known[worst], "<=", 0.005, "")


def study_goals(found: Found) -> list[Goal]:
    """C11 to C15, from what the examples wrote."""
    wearable, factory = found.studies.get("wearable", "not run"), found.studies.get("factory", "not run")
    wanted = [
        ("C11", "wearable: less time than the FP32 baseline", ">=", 80.0, "%"),
        ("C12", "wearable: smaller than it, raw", ">=", 20.0, "times"),
        ("C13", "wearable: less modelled energy", ">=", 60.0, "%"),
        ("C14", "wearable: change of recall, lower end", ">", -0.5, "points"),
        ("C14-seeds", "wearable: seeds", ">=", 3.0, "seeds"),
    ]
    if isinstance(wearable, str):
        first = [_unmeasured(*goal, wearable) for goal in wanted]
    else:
        energy = wearable["less_energy"]
        values = [
            100 * wearable["less_time"],
            wearable["times_smaller"],
            None if energy is None else 100 * energy,
            100 * wearable["recall_change"]["interval"][0],
            wearable["seeds"],
        ]
        first = [
            _unmeasured(*goal, wearable["energy"]) if value is None else Goal(goal[0], goal[1], float(value), *goal[2:])
            for goal, value in zip(wanted, values, strict=True)
        ]
    return [*first, *_factory_goals(factory)]


def _factory_goals(factory: Mapping[str, Any] | str) -> list[Goal]:
    wanted = [
        ("C15", "factory: packed student below its teacher, average precision", "<=", 0.02, ""),
        ("C15-parameters", "factory: teacher's parameters to the student's", ">=", 40.0, "times"),
        ("C15-teacher", "factory: the teacher's average precision", ">=", 0.685, ""),
        ("C15-seeds", "factory: seeds", ">=", 5.0, "seeds"),
    ]
    if isinstance(factory, str):
        return [_unmeasured(*goal, factory) for goal in wanted]
    gains = ", ".join(f"{kind} {gain['mean']:+.3f}" for kind, gain in factory["gain_over_plain"].items())
    told = f"{wanted[0][1]} (distillation over plain: {gains})"
    names = ("below_teacher", "times_fewer_parameters", "teacher_average_precision", "seeds")
    found = [Goal(goal[0], goal[1], float(factory[name]), *goal[2:]) for goal, name in zip(wanted, names, strict=True)]
    return [Goal("C15", told, found[0].value, *wanted[0][2:]), *found[1:]]


def _size_of(row: Row, peer: str) -> int | None:
    return next((made.size_bytes for made in row.peers if made.who == peer), None)


def _drop(made: Made) -> str:
    return "does not run" if made.evaluation is None else f"drops {made.evaluation.drop.value:.3f}"


def _no_study(found: Found, *names: str) -> str:
    return "; ".join(
        f"{name}: {found.studies.get(name, 'not run')}" for name in names if isinstance(found.studies.get(name, ""), str)
    )


def _unmeasured(identity: str, what: str, op: str, goal: float, unit: str, reason: str) -> Goal:
    return Goal(identity, what, None, op, goal, unit, reason or "not run")
