from __future__ import annotations

import itertools
import re
from pathlib import Path

from examples.page import Page, Point


def _page() -> Page:
    points = (Point("big <b>", 300_000, 0.96, 0.95, 0.97), Point("small", 3_000, 0.97, 0.96, 0.98))
    return Page("A & B", "recall", ("network", "bytes"), (("big <b>", "300000"), ("small", "3000")), points, ("it <helped>",))


def test_the_page_is_one_file_without_script_or_outside_resource_and_everything_is_escaped(tmp_path: Path) -> None:
    text = _page().write(tmp_path / "deep" / "page.html").read_text()
    assert "<b>" not in text
    assert "big &lt;b&gt;" in text
    assert "A &amp; B" in text
    assert not re.search(r"<script|src=|href=|url\(", text)
    assert "default-src 'none'" in text


def test_the_smaller_network_lies_left_and_the_better_one_higher(tmp_path: Path) -> None:
    text = _page().write(tmp_path / "page.html").read_text()
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', text)]
    assert dots[1][0] < dots[0][0]
    assert dots[1][1] < dots[0][1]


def test_the_table_lines_its_columns_up() -> None:
    lines = _page().text().splitlines()
    assert lines[2].index("bytes") == lines[3].index("300000") == lines[4].index("3000")


def test_names_of_networks_that_are_alike_do_not_lie_on_each_other(tmp_path: Path) -> None:
    points = tuple(Point(f"n{index}", 1000 + index, 0.9, 0.8, 0.95) for index in range(4))
    text = Page("t", "m", ("h",), (), points, ()).write(tmp_path / "page.html").read_text()
    heights = sorted(float(y) for y in re.findall(r'<text class="name" x="[\d.]+" y="([\d.]+)"', text))
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 12
