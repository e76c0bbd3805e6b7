"""The model card: one page of Markdown for people. Untrusted text wherever it is shown; decides nothing.

No version, counter or date, so that equal inputs give equal bytes and a re-issue keeps its card.
"""

from __future__ import annotations

from packager.facts import Candidate, PackFacts

_NOT_STATED = "not stated"


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


def _text(value: str) -> str:
    return " ".join(value.split()) or _NOT_STATED
