"""The page in a real browser: nothing leaves, nothing is complained about, everything is seen, also small, dark and on paper."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from audits.report.page import render_page
from tests.unit.audits import page_example
from tests.unit.audits.chromium import Browser, browser, find_browser

pytestmark = pytest.mark.e2e

CONTRAST = """
(() => {
  const light = c => { const v = c / 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const of = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest('.skip, title')) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest('svg') ? style.fill : style.color);
    const [a, b] = [of(ink), of(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([element.tagName, element.className.baseVal ?? element.className, ratio.toFixed(2)]);
  }
  return [...new Set(found.map(String))];
})()
"""
UNSEEN = """
[...document.querySelectorAll('section, h1, h2, h3, img, svg.plot, svg.record, table, figcaption')]
  .filter(e => { const r = e.getBoundingClientRect(); return r.width < 4 || r.height < 4 || !e.checkVisibility(); })
  .map(e => e.outerHTML.slice(0, 80))
"""
BROKEN_IMAGES = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with browser(program, tmp_path_factory.mktemp("browser") / "run") as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every section, pictures of the kind with most markup."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(page_example.view(), page_example.pictures((3, 12, 12), private=True)), encoding="utf-8")
    return path


def complaints(tab: Browser) -> list[dict[str, Any]]:
    return [*tab.said("Log.entryAdded"), *tab.said("Runtime.consoleAPICalled"), *tab.said("Runtime.exceptionThrown")]


def requests(tab: Browser) -> list[str]:
    return [told["request"]["url"] for told in tab.said("Network.requestWillBeSent")]


def show(tab: Browser, path: Path, *, width: int = 1200, scheme: str = "light", media: str = "screen") -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    tab.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(path)


def test_nothing_is_requested_but_the_file_and_nothing_is_complained_about(tab: Browser, page: Path) -> None:
    show(tab, page)
    assert [url for url in requests(tab) if not url.startswith("data:")] == [page.as_uri()]
    assert complaints(tab) == []


def test_this_test_would_see_a_request_and_the_pages_policy_stops_it(tab: Browser, page: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        image = f'<img alt="" src="http://127.0.0.1:{server.server_address[1]}/leak"><script>document.title = "ran"</script></main>'
        text = page.read_text(encoding="utf-8").replace("</main>", image)
        policy = text.index('<meta http-equiv="Content-Security-Policy"')
        open_text = text[:policy] + text[text.index(">", policy) + 1 :]
        for name, body, leaks in (("open", open_text, True), ("guarded", text, False)):
            path = tmp_path / f"{name}.html"
            path.write_text(body, encoding="utf-8")
            show(tab, path)
            assert asked == (["/leak"] if leaks else [])
            assert (tab.value("document.title") == "ran") is leaks
            assert any(url.endswith("/leak") for url in requests(tab))  # also one that is stopped before it leaves
            assert any("Content Security Policy" in str(told) for told in complaints(tab)) is not leaks
            asked.clear()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_everything_is_seen_and_the_page_is_as_wide_as_the_window(tab: Browser, page: Path, width: int, scheme: str) -> None:
    show(tab, page, width=width, scheme=scheme)
    assert tab.value("innerWidth") == width
    assert tab.value(OVERFLOW) == 0
    assert tab.value(UNSEEN) == []
    assert tab.value(BROKEN_IMAGES) == 0
    assert tab.value("document.images.length") > 100


@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")])
def test_every_text_has_enough_contrast(tab: Browser, page: Path, scheme: str, media: str) -> None:
    show(tab, page, scheme=scheme, media=media)
    assert tab.value(CONTRAST) == []


def test_dark_is_dark_and_paper_is_white(tab: Browser, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    show(tab, page, scheme="dark")
    dark = tab.value(ground)
    show(tab, page, scheme="dark", media="print")
    assert (dark, tab.value(ground)) == ("rgb(17, 23, 29)", "rgb(255, 255, 255)")


def test_the_keyboard_reaches_every_link_and_every_part_that_scrolls(tab: Browser, page: Path) -> None:
    show(tab, page)
    seen = []
    for _ in range(tab.value("document.querySelectorAll('a, [tabindex]').length")):
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(tab.value("document.activeElement.outerHTML.slice(0, 120)"))
        assert tab.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert len(set(seen)) == len(seen)
    assert 'class="skip"' in seen[0]


def test_assistive_software_gets_landmarks_names_and_no_picture_without_words(tab: Browser, page: Path) -> None:
    show(tab, page)
    nodes = [node for node in tab.call("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert len(roles["main"]) == len(roles["banner"]) == len(roles["navigation"]) == 1
    named = [name for role in ("image", "img", "graphics-document", "region", "heading", "link") for name in roles.get(role, [])]
    assert len(named) > 100
    assert all(name.strip() for name in named)
    assert "Membership inference" in roles["region"]


def test_it_prints_on_a_few_pages(tab: Browser, page: Path) -> None:
    show(tab, page)
    told = tab.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
    data = base64.b64decode(told["data"])
    assert data.startswith(b"%PDF-")
    pages = data.count(b"/Type /Page\n")
    assert 3 <= pages <= 25
