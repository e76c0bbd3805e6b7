"""The compression report: what was tried and chosen, and what it scored. A layer of the bundle, so no clock readings.

Every figure says how it was obtained: ``measured`` (in the real runtime, on the bytes that ship), ``modelled`` or
``unavailable``. Nothing in it names a version or counter: a re-issue carries the same report.
"""

from __future__ import annotations

import math

from device_client.bundle.strict_json import canonical_json
from packager.budget import BudgetResult, worst_verdict
from packager.facts import Candidate, PackFacts, Sensitivity
from packager.footprint import process_bytes
from packager.golden import GoldenResult
from packager.measure.device_model import model_all
from packager.measure.profiles import profiles_digest
from packager.measure.workload import Workload
from packager.parts import SYNTHETIC_NOTE
from packager.ptq.saturation import is_saturation_safe

SCHEMA = "1.1"
MAX_SENSITIVITY_ROWS = 300
_MAX_TEXT = 120  # characters; with the numbers above the report stays below the limit of its reader
_MAX_FRONT = 64


def build_report(facts: PackFacts) -> bytes:
    """The report's canonical JSON."""
    loaded, parts = facts.loaded, facts.parts
    value: dict[str, object] = {
        "schema": SCHEMA,
        "line": facts.path.line,
        "model": facts.path.model,
        "task": facts.task,
        "budget": overall_budget([candidate.evaluation.budget for candidate in facts.shipped]),
        "source": {
            "kind": loaded.source_name,
            "digest": str(loaded.source_digest),
            "bytes": loaded.source_bytes,
            "preparation": list(loaded.notes),
        },
        "original": {
            "what": "the source in FP32 normal form: what sizes, drops and ratios are compared with",
            "bytes": facts.original_bytes,
            "metric": facts.metric,
            "test": facts.original.to_json(),
            **_cost_json(facts.original_workload),
        },
        "data": {
            "split": parts.origin,
            "rows": {
                "calibration": len(parts.calibration),
                "validation": 0 if parts.validation is None else len(parts.validation),
                "test": len(parts.test),
                "train": 0 if parts.train is None else len(parts.train),
            },
            "grouped": parts.test.groups is not None,
            "digests": {name: str(digest) for name, digest in parts.digests()},
            "note": SYNTHETIC_NOTE
            if parts.origin == "synthetic"
            else "parts share no row and no group; whether test rows trained the model, only their owner knows",
        },
        "variants": [_candidate_json(facts, candidate) for candidate in facts.candidates],
        "sensitivity": sensitivity_json(facts.sensitivity),
        "pareto": {
            "costs": ["stored_bytes", "drop"],
            "front": sorted(identity[:_MAX_TEXT] for identity in facts.front)[:_MAX_FRONT],
        },
        "device_profiles": {
            "digest": str(profiles_digest()),
            "how": "modelled; each number and its source stand on the page beside",
        },
        "golden": golden_json(facts.golden, facts.recipe.golden.min_score),
        "latency": {"how": "unavailable", "reason": "clock readings are in the measurements file that the release entry names"},
        "recipe": {"digest": str(facts.recipe.digest()), "effective": facts.recipe.to_json()},
    }
    return canonical_json(value)


def overall_budget(results: list[BudgetResult]) -> dict[str, object]:
    """The worst verdict of what ships, and the rows that would settle it."""
    verdict = worst_verdict(results)
    needed = [result.samples_needed for result in results if result.samples_needed is not None]
    return {
        "verdict": verdict.value,
        "accuracy_drop": results[0].allowed_drop,
        "samples_needed": max(needed) if needed else None,
    }


def golden_json(golden: GoldenResult, min_score: float) -> dict[str, object]:
    """Number, origin and mutation score of the golden probes."""
    return {
        "probes": golden.count,
        "bytes": len(golden.data),
        "origin": "synthetic: from the inputs' declared ranges, else those of the calibration rows, and the source's digest",
        "how": "measured",
        "wanted_score": min_score,
        "reached": golden.worst_share >= min_score,
        "mutation": {variant: score.to_json() for variant, score in golden.scores},
        "tolerances": {variant: tolerance.to_json() for variant, tolerance in golden.tolerances},
    }


def worst_first(rows: tuple[Sensitivity, ...]) -> list[Sensitivity]:
    """The nodes that suffer most first: by drop, then by noise."""
    return sorted(rows, key=lambda row: (-(row.drop or 0.0), float("inf") if row.sqnr_db is None else row.sqnr_db, row.node))


def sensitivity_json(rows: tuple[Sensitivity, ...]) -> dict[str, object]:
    """The nodes that suffer most, worst first."""
    shown = worst_first(rows)[:MAX_SENSITIVITY_ROWS]
    return {
        "how": "measured" if rows else "unavailable",
        "rows": [
            {"node": row.node[:_MAX_TEXT], "op": row.op, "sqnr_db": _rounded(row.sqnr_db, 2), "drop": _rounded(row.drop, 6)}
            for row in shown
        ],
        "not_shown": len(rows) - len(shown),
    }


def stored_json(candidate: Candidate, facts: PackFacts) -> dict[str, object]:
    """Size of the layer as the bundle holds it; the ratio is to the original as it is."""
    stored = facts.stored(candidate)
    size = len(stored.data)
    return {"bytes": size, "encoding": stored.encoding, "ratio": round(facts.original_bytes / size, 4)}


def _candidate_json(facts: PackFacts, candidate: Candidate) -> dict[str, object]:
    workload = facts.workloads[candidate.id]
    return {
        "id": candidate.id,
        "shipped": candidate.refused is None,
        "refused": candidate.refused,
        "precision": candidate.precision,
        "digest": str(candidate.model.digest),
        "bytes": candidate.size_bytes,
        "size_ratio": round(facts.original_bytes / candidate.size_bytes, 4),
        "stored": stored_json(candidate, facts),
        "evaluation": candidate.evaluation.to_json(),
        "ram_bytes": {"how": "modelled", "value": process_bytes(workload)},
        "safe_without_vnni": {"how": "modelled", "value": is_saturation_safe(candidate.model.data)},
        "techniques": list(candidate.evidence),
        "on_front": candidate.id in facts.front,
        **_cost_json(workload),
    }


def _cost_json(workload: Workload) -> dict[str, object]:
    """What one inference costs: counted, and modelled per device profile."""
    return {
        "workload": workload.to_json(),
        "devices": {figures.profile.name: figures.to_json() for figures in model_all(workload)},
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
