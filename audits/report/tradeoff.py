"""Accuracy against leakage, one plot for each test that gives a figure: what a model that leaks less has paid for it."""

from __future__ import annotations

from audits.report import words
from audits.report.charts import Point, scatter
from audits.report.overview import accuracies
from audits.report.parts import figure, note, section
from audits.report.view import PageView

_MAX_PLOTS = 6


def tradeoff(view: PageView) -> str:
    """Absent where fewer than two models have both figures."""
    accuracy = accuracies(view)
    plots: dict[tuple[str, str], list[Point]] = {}
    for subject, finding in view.findings():
        if finding.estimate is not None and finding.not_run is None and subject.id in accuracy:
            point = Point(subject.id, accuracy[subject.id][1], finding.estimate, finding.interval, subject.is_original)
            plots.setdefault((finding.test, finding.statistic), []).append(point)
    drawn = [
        figure(
            scatter(points, across="accuracy on held-outs", up=words.statistic(statistic)), f"{test}, {words.statistic(statistic)}."
        )
        for (test, statistic), points in plots.items()
        if len(points) > 1
    ][:_MAX_PLOTS]
    told = (
        "Right is more accurate, up leaks more. The hollow mark is the original; lines are intervals of the leak. Whether a model "
        "leaks is decided above, not here."
    )
    return section("Accuracy against leakage", note(told), f'<div class="cols">{"".join(drawn)}</div>') if drawn else ""
