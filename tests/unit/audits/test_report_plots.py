"""Drawings put every number where its axis says, stay inside their frame, and follow the style sheet's colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from audits.report.charts import Planted, Point, bars, lines, null_histogram, planted_strip, scatter
from audits.report.forest import ForestRow, forest
from audits.report.roc import Curve, Mark, roc
from audits.report.svg import Scale, padded, plain

CURVE = Curve("a", 0, (1e-4, 0.01, 1.0), (0.01, 0.1, 1.0), (0.0, 0.05, 1.0), (0.02, 0.2, 1.0), (Mark(0.01, 0.1, (0.05, 0.2)),))
DRAWINGS = {
    "forest": forest("gap", [ForestRow("a", 0.1, (0.05, 0.2), 0.3), ForestRow("b", -0.1, None)]),
    "one estimate": forest("gap", [ForestRow("a", 0.0)]),
    "roc": roc("a model", [CURVE], floor=1e-4, limit=1e-3, reference=CURVE),
    "histogram": null_histogram([1, 5, 2], low=-0.1, high=0.1, observed=0.5, threshold=0.2),
    "no threshold": null_histogram([], low=0.0, high=0.0, observed=0.0, threshold=None),
    "strip": planted_strip([Planted(0.1, False), Planted(0.5, True), Planted(0.5, True)], required=0.5, unit="share"),
    "scatter": scatter([Point("a", 0.9, 0.1, (0.0, 0.2), True), Point("b", 0.9, 0.1, None, False)], across="accuracy", up="gap"),
    "lines": lines([[0.0, 5.0, 0.5]], low=0.0, high=1.0, label="x"),
    "bars": bars([-9.0, 2.0], high=4.0, label="x"),
}
ATTRIBUTES = {"x": 0, "x1": 0, "x2": 0, "cx": 0, "y": 1, "y1": 1, "y2": 1, "cy": 1}


@pytest.mark.parametrize("name", list(DRAWINGS))
def test_a_drawing_is_well_formed_stays_inside_its_frame_and_says_what_it_shows(name: str) -> None:
    root = ET.fromstring(DRAWINGS[name])
    frame = [float(value) for value in root.attrib["viewBox"].split()][2:]
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    for element in root.iter():
        for key, axis in ATTRIBUTES.items():
            if key in element.attrib:
                assert -0.1 <= float(element.attrib[key]) <= frame[axis] + 0.1
        for pair in element.attrib.get("points", "").split():
            assert all(-0.1 <= float(value) <= size + 0.1 for value, size in zip(pair.split(","), frame, strict=True))
        assert not {"fill", "stroke", "style"} & set(element.attrib)


def test_a_text_in_a_drawing_is_escaped() -> None:
    drawn = forest("<b>", [ForestRow('"><script>', 0.1)])
    assert "<script" not in drawn
    assert "<b>" not in drawn
    ET.fromstring(drawn)


def test_logarithmic_axes_give_each_decade_the_same_room_and_hold_what_lies_below() -> None:
    scale = Scale(1e-4, 1.0, 0.0, 100.0, log=True)
    assert [round(scale(value)) for value in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)] == [0, 25, 50, 75, 100]
    assert scale(0.0) == 0.0
    assert scale.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


@pytest.mark.parametrize(("low", "high"), [(-0.013, 0.31), (0.94, 0.951), (-5.0, 1200.0), (0.0, 1e-6)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    ticks = Scale(low, high, 0.0, 1.0).ticks()
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    assert all(len(f"{tick:.4g}") <= 6 for tick in ticks)


def test_an_axis_never_has_no_length() -> None:
    for values in ([0.0], [3.0, 3.0], [-1e9, -1e9]):
        low, high = padded(values)
        assert low < min(values) <= max(values) < high


def test_small_powers_of_ten_are_written_as_such() -> None:
    assert [plain(value) for value in (1e-5, 1e-3, 0.02, -0.5, 0.0, 1200.0)] == [
        "10⁻⁵",
        "0.001",
        "0.02",
        "\N{MINUS SIGN}0.5",
        "0",
        "1200",
    ]


def test_the_grey_of_a_roc_ends_where_the_records_begin_to_support_a_rate() -> None:
    def grey(limit: float) -> list[float]:
        drawn = roc("m", [CURVE], floor=1e-4, limit=limit)
        return [float(width) for width in re.findall(r'width="([0-9.]+)"[^>]*class="unsupported"', drawn)]

    assert grey(1e-4) == []
    assert grey(1e-3)[0] == pytest.approx(grey(1e-2)[0] / 2, abs=0.1)


def test_a_roc_draws_the_chance_diagonal_from_corner_to_corner() -> None:
    ((x1, y1, x2, y2),) = re.findall(
        r'<line x1="([0-9.]+)" y1="([0-9.]+)" x2="([0-9.]+)" y2="([0-9.]+)" class="zero"/>', DRAWINGS["roc"]
    )
    assert (float(x1), float(y1), float(x2), float(y2)) == (52.0, 274.0, 330.0, 26.0)


def test_a_missed_leak_is_a_cross_and_a_caught_one_a_dot() -> None:
    drawn = DRAWINGS["strip"]
    assert (drawn.count('class="missed"'), drawn.count('class="caught"'), drawn.count('class="required"')) == (2, 2, 1)
    heights = set(re.findall(r'cy="([0-9.]+)" r="5.5"', drawn))
    assert len(heights) == 2  # two of one strength do not hide each other


def test_labels_of_models_with_the_same_figures_do_not_lie_on_each_other() -> None:
    drawn = scatter([Point(name, 0.9, 0.1, None, False) for name in "abcdef"], across="x", up="y")
    heights = sorted(float(y) for y in re.findall(r'<text x="343.0" y="([0-9.]+)"', drawn))
    assert len(heights) == 6
    assert all(after - before >= 13.9 for before, after in pairwise(heights))


def test_a_forest_marks_the_comparison_hollow_and_writes_every_number() -> None:
    drawn = forest(
        "gap", [ForestRow("original", 0.11, (0.09, 0.13), comparison=True), ForestRow("int8", 0.1114, (0.09, 0.13), 0.02)]
    )
    assert (drawn.count('class="hollow"'), drawn.count('class="dot"'), drawn.count('class="bound"')) == (1, 1, 1)
    assert "+0.1114 [+0.0900, +0.1300]" in drawn
    assert "0.0000 [\N{MINUS SIGN}0.1000, +0.0000]" in forest("gap", [ForestRow("a", -0.00001, (-0.1, -0.0))])
