"""The page of a real run stands alone, escapes what it did not write, and is well formed for people and for their tools."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from audits.report.images import WAYS, WHITE_BOX, ReportImages, keep
from audits.report.page import render_page, render_report
from audits.run import RunResult
from device_client.errors import FormatError
from tests.unit.audits import page_example

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline", "polygon"}


def stored_images(result: RunResult, *, private: bool = False) -> ReportImages:
    source = result.images
    return keep(
        class_means=source.class_means,
        heldouts=source.heldouts,
        reconstructions={key: values for key, values in source.attacks.items() if key[1] in WAYS},
        start=source.start,
        private=private,
    )


class Page(HTMLParser):
    """Elements in order, each with its attributes; text by the element that holds it; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag in tags]


@pytest.fixture(scope="module")
def whole() -> Page:
    """A page with every section."""
    return Page(render_page(page_example.view(), page_example.pictures((1, 12, 10), private=True)))


def test_the_page_of_a_run_is_self_contained_and_well_formed(good_run: RunResult) -> None:
    text = render_report(good_run.audit, stored_images(good_run))
    page = Page(text)
    assert not {tag for tag, _ in page.seen} & {"script", "link", "iframe", "object", "base", "form"}
    assert "default-src 'none'" in text
    sources = [attributes["src"] for attributes in page.all("img")]
    assert len(sources) == 10 * 6
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert all((attributes["href"] or "").startswith("#") for attributes in page.all("a"))


def test_the_page_of_a_run_shows_verdict_digests_controls_and_limits(good_run: RunResult) -> None:
    page = render_report(good_run.audit, stored_images(good_run))
    for text in ("PASSED", "planted leak", "null control", "relabellings", "What this verdict does not say", "These are blurred"):
        assert text in page
    for subject in good_run.audit.subjects:
        assert str(subject.digest) in page
    assert str(good_run.audit.policy.digest) in page
    assert "Membership inference was not tested" in page
    assert "would have caught a leak of" in page


def test_the_same_run_gives_the_same_page(good_run: RunResult) -> None:
    assert render_report(good_run.audit, stored_images(good_run)) == render_report(good_run.audit, stored_images(good_run))


def test_text_from_models_and_bundles_is_escaped(good_run: RunResult) -> None:
    hostile = '<img src=x onerror="alert(1)">\u202eevil\x1b[2J'
    subjects = tuple(
        replace(subject, id=subject.id if subject.id == "original" else hostile, ruling=replace(subject.ruling, reasons=(hostile,)))
        for subject in good_run.audit.subjects
    )
    (family,) = good_run.audit.families
    found = {hostile if name != "original" else name: findings for name, findings in family.findings.items()}
    detail = {hostile if name != "original" else name: entry for name, entry in family.detail.items()}
    audit = replace(
        good_run.audit,
        subjects=subjects,
        families=(replace(family, family=hostile, findings=found, detail=detail, shared={hostile: hostile}),),
        bundle={"path": hostile, "manifest": hostile},
        tools={hostile: hostile},
    )
    images = stored_images(good_run)
    images = replace(images, reconstructions={("original", hostile): images.class_means, (hostile, WHITE_BOX): images.class_means})
    page = render_report(audit, images)
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_an_audit_that_could_judge_nothing_still_has_a_page(good_run: RunResult) -> None:
    (family,) = good_run.audit.families
    detail = {
        name: {"tests": [], "attacks": [], "delta": [], "access": {**entry["access"], "parity": None}}
        for name, entry in family.detail.items()
    }
    audit = replace(good_run.audit, families=(replace(family, detail=detail),))
    page = render_report(audit, replace(stored_images(good_run), reconstructions={}))
    assert "No statistic could be computed" in page
    assert "No attack made an image" in page
    assert "Compressed against original" not in page


def test_a_detail_that_is_not_a_number_is_an_error_and_never_markup(good_run: RunResult) -> None:
    hostile = '<meta http-equiv="refresh" content="0;url=http://evil/">'
    (family,) = good_run.audit.families
    for place in ("estimate", "p_value", "threshold"):
        entry = family.detail["original"]
        edited = {**entry, "tests": [{**entry["tests"][0], place: hostile}]}
        audit = replace(good_run.audit, families=(replace(family, detail={**family.detail, "original": edited}),))
        with pytest.raises(FormatError) as refused:
            render_report(audit, stored_images(good_run))
        assert refused.value.code == "audit_syntax"
    with pytest.raises(FormatError):
        render_report(replace(good_run.audit, data={}), stored_images(good_run))


def test_headings_go_down_one_level_at_a_time_and_every_part_has_a_name(whole: Page) -> None:
    levels = [int(tag[1]) for tag, _ in whole.seen if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for tag, attributes in whole.seen if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    named = [attributes["aria-labelledby"] for attributes in whole.all("section")]
    assert set(named) <= set(ids)
    assert {(attributes["href"] or "")[1:] for attributes in whole.all("a")} == set(named)
    assert len(whole.all("main")) == len(whole.all("header")) == len(whole.all("nav")) == 1


def test_pictures_and_tables_can_be_read_without_being_seen(whole: Page) -> None:
    assert all(attributes.get("alt") for attributes in whole.all("img"))
    drawings = [attributes for attributes in whole.all("svg") if attributes.get("aria-hidden") != "true"]
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in drawings)
    assert len(drawings) > 10
    assert all(attributes.get("scope") in {"col", "row", "colgroup"} for attributes in whole.all("th"))
    scrolled = [attributes for attributes in whole.all("div") if attributes.get("class") == "wide"]
    assert len(scrolled) == len(whole.all("table"))
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in scrolled)
