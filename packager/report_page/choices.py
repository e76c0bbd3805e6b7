"""The page's sections on the choice: size against accuracy, what was tried, which layer suffers. They decide nothing."""

from __future__ import annotations

from html import escape

from packager.facts import Candidate, PackFacts
from packager.report import worst_first
from packager.report_page.parts import note, section, size, table, tag
from packager.report_page.plots import BarRow, PlotPoint, SpreadRow, bars, ratio_plot, size_plot
from packager.report_page.readings import Readings

_MAX_TRIALS = 200
_MAX_BARS = 25


def front(facts: PackFacts, readings: Readings) -> str:
    """Accuracy over size, and latency."""
    points = [_original_point(facts), *(_candidate_point(facts, item, readings) for item in facts.candidates)]
    for trial in facts.trials:
        if trial.drop is not None:
            title = f"{trial.id}: {', '.join(trial.steps)}\n{size(trial.stored_bytes)} stored, drop {trial.drop:+.4f}\n{trial.note}"
            points.append(PlotPoint(trial.stored_bytes, trial.drop, trial.verdict, trial.id in facts.front, title))
    rows = [
        SpreadRow(name, ratio.ratio, ratio.low, ratio.high, f"{name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
        for name, ratio in readings.latency.items()
    ]
    legend = "".join(
        f'<span><i class="{kind}"></i>{kind}</span>' for kind in ("met", "unproven", "missed", "failed") if _has(facts, kind)
    )
    left = f"<figure>{size_plot(points, metric=facts.metric)}</figure><div class='legend'>{legend}<span>ring: original</span></div>"
    right = (
        f"<h3>Latency as a ratio to the original, 95 % intervals</h3><figure>{ratio_plot(rows)}</figure>"
        if rows
        else note("Latency was not measured in this run.")
    )
    about = (
        "Up and to the left is better. The dashed line joins what nothing beats in stored size and drop at once. Candidates are "
        "judged on the test part, a search's trials on the validation part. Point at a dot for its figures."
    )
    return section("Size against accuracy", note(about) + f'<div class="cols"><div>{left}</div><div>{right}</div></div>')


def tried(facts: PackFacts) -> str:
    """Candidates, then a search's trials: what was rejected, and why."""
    rows = [
        [
            f"<strong>{escape(item.id)}</strong>",
            escape(", ".join(str(evidence.get("technique", "?")) for evidence in item.evidence) or "none"),
            size(facts.stored_bytes(item)),
            f"{item.evaluation.estimate.value:.4f}",
            f"{item.evaluation.drop.value:+.4f}",
            tag("refused" if item.refused else item.evaluation.budget.verdict.value),
            "yes" if item.id in facts.front else "",
            escape(item.refused or "ships"),
        ]
        for item in facts.candidates
    ]
    rows += [
        [
            escape(trial.id),
            escape(", ".join(trial.steps)),
            size(trial.stored_bytes) if trial.stored_bytes > 0 else "",
            "" if trial.metric is None else f"{trial.metric:.4f}",
            "" if trial.drop is None else f"{trial.drop:+.4f}",
            tag(trial.verdict),
            "yes" if trial.id in facts.front else "",
            escape(trial.note),
        ]
        for trial in facts.trials[:_MAX_TRIALS]
    ]
    head = ["Model", "Techniques", "Stored", facts.metric, "Drop", "Verdict", "On the front", "Why"]
    hidden = len(facts.trials) - _MAX_TRIALS
    more = note(f"{hidden} more trials are in the measurements file.") if hidden > 0 else ""
    return section("What was tried, and why it was rejected", table(head, rows, numeric=frozenset({2, 3, 4})) + more)


def sensitivity(facts: PackFacts) -> str:
    """The nodes that suffer most when compressed alone."""
    if not facts.sensitivity:
        return section("Sensitivity of each layer", note("Not measured in this run: no technique or search asked for it."))
    worst = worst_first(facts.sensitivity)[:_MAX_BARS]
    by_drop = any(row.drop is not None for row in worst)
    rows = []
    for row in worst:
        noise = "" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"
        lost = "" if row.drop is None else f"drop {row.drop:.4f}"
        length = (row.drop or 0.0) if by_drop else 10 ** (-(row.sqnr_db or 0.0) / 20)
        title = f"{row.node} ({row.op}): {', '.join(text for text in (lost, noise) if text)}"
        rows.append(BarRow(row.node, length, lost or noise, title))
    what = f"drop of {facts.metric}" if by_drop else "quantisation noise relative to the signal"
    about = f"Each node compressed alone, worst first: {what}. {len(facts.sensitivity)} nodes were measured."
    return section("Sensitivity of each layer", note(about) + f"<figure>{bars(rows, label=what)}</figure>")


def _original_point(facts: PackFacts) -> PlotPoint:
    title = f"original: {size(facts.original_bytes)}, {facts.metric} {facts.original.value:.4f}"
    return PlotPoint(facts.original_bytes, 0.0, "other", on_front=False, title=title, is_original=True)


def _candidate_point(facts: PackFacts, item: Candidate, readings: Readings) -> PlotPoint:
    ratio = readings.latency.get(item.id)
    title = f"{item.id}: {size(facts.stored_bytes(item))} stored, {facts.metric} {item.evaluation.estimate.value:.4f}" + (
        f", latency {ratio.ratio:.2f} of the original" if ratio else ""
    )
    verdict = "refused" if item.refused else item.evaluation.budget.verdict.value
    return PlotPoint(facts.stored_bytes(item), item.evaluation.drop.value, verdict, on_front=item.id in facts.front, title=title)


def _has(facts: PackFacts, verdict: str) -> bool:
    words = {item.evaluation.budget.verdict.value for item in facts.candidates} | {trial.verdict for trial in facts.trials}
    return verdict in words
