from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import media_types
from device_client.errors import UsageError
from packager.facts import PackFacts, Sensitivity, TrialRow
from packager.latency import LatencyRatio
from packager.measure.energy import Energy
from packager.measure.metered_run import MeteredPair
from packager.pack import PackResult, pack
from packager.report import MAX_SENSITIVITY_ROWS, build_report
from packager.report_page.page import page_path, render_page
from packager.report_page.plots import BarRow, PlotPoint, bars, size_plot
from packager.report_page.readings import Readings

from .models import pack_request
from .test_pack import layer

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
TRIALS = (
    TrialRow("t0", ("int8-static",), 9000, 7000, 0.95, 0.001, "met", "chosen"),
    TrialRow("t1", ("int8-static", "prune-nm"), 8000, 6000, 0.93, 0.02, "missed", "drop above the budget"),
    TrialRow("t2", ("codebook",), 9500, 8000, 0.94, 0.01, "unproven", "t0 is smaller and better"),
    TrialRow("t3", (HOSTILE,), 0, 0, None, None, "failed", HOSTILE),
)
SENSITIVITY = (Sensitivity("first", "Gemm", 31.5, 0.0001), Sensitivity(HOSTILE, "Gemm", 12.0, 0.02), Sensitivity("third", "Gemm"))


class Tags(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def facts(packed: PackResult) -> PackFacts:
    return replace(packed.facts, trials=TRIALS, sensitivity=SENSITIVITY)


def readings() -> Readings:
    measured = MeteredPair(Energy(120.0, "measured", "RAPL", (110.0, 130.0)), Energy(40.0, "measured", "RAPL", (38.0, 42.0)), 1 / 3)
    return Readings({"int8-static": LatencyRatio(0.62, 0.60, 0.64, 30, 0.2, 0.124)}, {"int8-static": measured})


def page(packed: PackResult, facts: PackFacts) -> str:
    return render_page(facts, readings(), manifest=packed.bundle.digest)


def test_pack_writes_the_page_beside_the_bundle(packed: PackResult) -> None:
    assert packed.page == page_path(packed.out) == packed.out.with_name("bundle.report.html")
    text = packed.page.read_text(encoding="utf-8")
    assert str(packed.bundle.digest) in text
    assert "int8-static" in text


def test_an_existing_page_is_left_alone(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.report.html").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        pack(pack_request(trained, tmp_path / "bundle", model="does-not-matter.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.report.html"]


def test_the_page_loads_nothing_and_runs_nothing(packed: PackResult, facts: PackFacts) -> None:
    text = page(packed, facts)
    found = Tags(text)
    assert found.open == []
    policies = [
        attributes["content"] for tag, attributes in found.found if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    for tag, attributes in found.found:
        assert tag not in ("script", "img", "link", "iframe", "object", "embed", "form", "base", "a")
        assert not any(name.startswith("on") or name in ("src", "href", "style", "action") for name in attributes), (
            tag,
            attributes,
        )
    assert "url(" not in text
    assert "@import" not in text


def test_text_from_models_searches_and_recipes_stays_text(packed: PackResult, facts: PackFacts) -> None:
    recipe = replace(facts.recipe, card=replace(facts.recipe.card, licence=HOSTILE, description=HOSTILE))
    text = page(packed, replace(facts, recipe=recipe))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Tags(text)


def test_it_shows_what_was_tried_and_why_it_was_rejected(packed: PackResult, facts: PackFacts) -> None:
    text = page(packed, facts)
    for words in (
        "drop above the budget",
        "t0 is smaller and better",
        "0.620",
        "40 µJ",
        "Cortex-M4F",
        "Raspberry Pi 5",
        "how it was obtained",
    ):
        assert words in text


def test_a_run_without_search_sensitivity_or_meter_says_so(packed: PackResult) -> None:
    text = render_page(packed.facts, Readings({}, {}), manifest=packed.bundle.digest)
    assert "Not measured in this run" in text
    assert "Latency was not measured" in text


def test_the_report_in_the_bundle_holds_costs_and_no_reading(packed: PackResult) -> None:
    report = json.loads(layer(packed.out, media_types.REPORT))
    for model in (report["original"], report["variants"][0]):
        assert model["workload"]["macs"]["total"] == 64 * 96 + 96 * 48 + 48 * 10
        assert model["workload"]["memory"]["how"] == "modelled"
        assert set(model["devices"]) >= {"cortex-m4", "raspberry-pi-4"}
        assert {figures["energy"]["kind"] for figures in model["devices"].values()} == {"modelled"}
    assert report["variants"][0]["workload"]["macs"]["int8"] == report["variants"][0]["workload"]["macs"]["total"]
    assert "trials" not in report  # the course of a search depends on a clock: it is told beside the bundle
    assert report["pareto"]["front"] == ["int8-static"]


def test_the_nodes_that_suffer_most_stand_first_in_the_report(facts: PackFacts) -> None:
    report = json.loads(build_report(facts))
    assert [row["node"] for row in report["sensitivity"]["rows"]] == [HOSTILE, "first", "third"]


def test_the_front_holds_trials_too_and_never_a_failed_one(facts: PackFacts) -> None:
    assert "t1" in facts.front
    assert not facts.front & {"t2", "t3"}


def test_any_number_of_nodes_keeps_the_report_within_the_limit_of_its_reader(facts: PackFacts) -> None:
    from packager.budget_gate import MAX_REPORT_BYTES

    nodes = tuple(Sensitivity("n" * 1000 + str(index), "Conv", 3.0, 0.1) for index in range(2 * MAX_SENSITIVITY_ROWS))
    data = build_report(replace(facts, trials=(), sensitivity=nodes))
    assert len(data) < MAX_REPORT_BYTES
    assert json.loads(data)["sensitivity"]["not_shown"] == MAX_SENSITIVITY_ROWS


def test_the_card_tells_the_same_costs(packed: PackResult) -> None:
    card = layer(packed.out, media_types.DOC).decode()
    total = packed.facts.original_workload.macs.total
    assert f"| original | {total} | 0% |" in card
    assert f"| int8-static | {total} | 100% |" in card
    for _, digest in packed.facts.parts.digests():
        assert str(digest) in card


def test_the_plot_joins_the_front_and_gives_every_dot_a_title() -> None:
    points = [
        PlotPoint(1000, 0.02, "missed", on_front=True, title="small"),
        PlotPoint(9000, 0.0, "met", on_front=True, title="large"),
        PlotPoint(9500, 0.01, "met", on_front=False, title="beaten"),
        PlotPoint(20000, 0.0, "other", on_front=False, title="original", is_original=True),
    ]
    drawing = size_plot(points, metric="accuracy")
    assert drawing.count("<title>") == 4
    assert len(re.findall(r"\d+\.\d,\d+\.\d", re.search(r'points="([^"]*)"', drawing)[1])) == 2  # type: ignore[index]


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([], id="nothing"),
        pytest.param([PlotPoint(1000, 0.0, "met", on_front=True, title="")], id="one point"),
        pytest.param([PlotPoint(1000, 0.0, "met", on_front=True, title="")] * 3, id="equal points"),
        pytest.param([PlotPoint(0, 0.0, "failed", on_front=False, title="")], id="no size"),
        pytest.param([PlotPoint(10, float("nan"), "failed", on_front=False, title="")], id="no figure"),
        pytest.param(
            [PlotPoint(1, 0.5, "met", on_front=True, title=""), PlotPoint(10**9, -90.0, "met", on_front=True, title="")],
            id="far apart",
        ),
    ],
)
def test_any_set_of_points_can_be_drawn(points: list[PlotPoint]) -> None:
    drawing = size_plot(points, metric="accuracy")
    assert "nan" not in drawing
    assert "inf" not in drawing


def test_bars_of_nothing_but_zeros_can_be_drawn() -> None:
    assert "nan" not in bars([BarRow("a", 0.0, "0", ""), BarRow("b", 0.0, "0", "")], label="x")


def test_the_page_is_the_same_on_every_run_but_for_readings(packed: PackResult, facts: PackFacts) -> None:
    one, two = (render_page(facts, readings(), manifest=packed.bundle.digest) for _ in range(2))
    assert one == two


def test_energy_and_latency_stand_beside_the_bundle_with_their_kind(packed: PackResult) -> None:
    beside: Any = json.loads(packed.measurements.read_bytes())
    assert beside["energy"]["int8-static"]["kind"] in ("measured", "unavailable")
    assert beside["latency"]["int8-static"]["pinned"] in (True, False)
