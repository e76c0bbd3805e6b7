"""The model card: one page of Markdown for people. Untrusted text wherever it is shown; decides nothing.

No version, counter or date, so that equal inputs give equal bytes and a re-issue keeps its card.
"""

from __future__ import annotations

from packager.facts import Candidate, PackFacts
from packager.measure.device_model import model_all
from packager.ptq.saturation import is_saturation_safe

_NOT_STATED = "not stated"
_PROFILES_SHOWN = ("cortex-m4", "watch", "raspberry-pi-4")


def build_card(facts: PackFacts) -> bytes:
    """The card as UTF-8 Markdown."""
    path, card = facts.path, facts.recipe.card
    lines = [
        f"# {path.line}/{path.model}",
        "",
        _text(card.description),
        "",
        f"- Task: {facts.task}",
        f"- Licence: {_text(card.licence)}",
        f"- Intended use: {_text(card.intended_use)}",
        f"- Limitations: {_text(card.limitations)}",
        "",
        "## Inputs",
        "",
        *(f"- `{spec.name}`: {spec.dtype} {list(spec.shape)}, {_text(spec.meaning)}" for spec in facts.inputs),
        "",
        f"## Variants, judged on {len(facts.parts.test)} test rows",
        "",
        "| variant | precision | bytes | metric | value | 95 % interval | drop | budget |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(candidate) for candidate in facts.shipped),
        "",
        *_compression(facts),
        "",
        *_cost(facts),
        "",
        "## Data",
        "",
        f"Parts: {facts.parts.origin}. They share no row and no group.",
        "Whether test rows trained the model, only their owner knows.",
        "",
        *(f"- {name}: `{digest}`" for name, digest in facts.parts.digests()),
        "",
        "Details, and variants that were tried and refused, are in the compression report of the same bundle.",
        "",
    ]
    return "\n".join(lines).encode()


def _row(candidate: Candidate) -> str:
    judged = candidate.evaluation
    estimate = judged.estimate
    return (
        f"| {candidate.id} | {candidate.precision} | {candidate.size_bytes} | {judged.metric} | {estimate.value:.4f} "
        f"| {estimate.low:.4f} to {estimate.high:.4f} | {judged.drop.value:.4f} | {judged.budget.verdict.value} |"
    )


def _compression(facts: PackFacts) -> list[str]:
    lines = ["## How it was compressed", ""]
    for candidate in facts.shipped:
        names = [str(evidence.get("technique", "?")) for evidence in candidate.evidence]
        safe = "runs right on every CPU" if is_saturation_safe(candidate.model.data) else "needs AVX-512 VNNI on x86"
        lines.append(f"- {candidate.id}: {', '.join(names) or 'not compressed'}; {safe}")
    refused = [candidate for candidate in facts.candidates if candidate.refused is not None]
    lines += [f"- {candidate.id} was refused: {_text(candidate.refused or '')}" for candidate in refused]
    if facts.trials:
        lines.append(f"- chosen among {len(facts.trials)} combinations that were tried")
    return lines


def _cost(facts: PackFacts) -> list[str]:
    """Counted and modelled, so the same on every run; clock and meter readings lie beside the bundle."""
    lines = [
        "## What one inference costs (modelled)",
        "",
        "| model | MACs | of them int8 | peak activations | energy on " + " | on ".join(_PROFILES_SHOWN) + " |",
        "|---|---|---|---|" + "---|" * len(_PROFILES_SHOWN),
    ]
    pairs = [("original", facts.original_workload), *((item.id, facts.workloads[item.id]) for item in facts.shipped)]
    for name, workload in pairs:
        share = workload.macs.by_arithmetic["int8"] / max(1, workload.macs.total)
        energies = [figures.energy.value for figures in model_all(workload) if figures.profile.name in _PROFILES_SHOWN]
        cells = ["unavailable" if value is None else f"{value:.4g} uJ" for value in energies]
        lines.append(
            f"| {name} | {workload.macs.total} | {share:.0%} | {workload.memory.peak_bytes} bytes | " + " | ".join(cells) + " |"
        )
    return [
        *lines,
        "",
        "Energy is above idle, from counted operations and a device profile: for comparing, not for planning a battery.",
    ]


def _text(value: str) -> str:
    return " ".join(value.split()) or _NOT_STATED
