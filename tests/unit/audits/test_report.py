"""The page stands alone, escapes what it did not write, and shows no more than was stored."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from audits.images import image_grid, png, prepare
from audits.report import render_report
from audits.run import RunResult
from audits.store import ReportImages
from device_client.errors import FormatError


def stored_images(result: RunResult, *, private: bool = False) -> ReportImages:
    source = result.images
    return ReportImages(
        prepare(source.class_means, private=private),
        prepare(source.heldouts, private=private),
        {name: prepare(values, private=private) for name, values in source.reconstructions.items()},
        private,
    )


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_well_formed(good_run: RunResult) -> None:
    page = render_report(good_run.audit, stored_images(good_run))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not {tag for tag, _ in parser.seen} & {"script", "link", "iframe", "object"}
    assert "default-src 'none'" in page
    sources = [attributes["src"] for tag, attributes in parser.seen if tag == "img"]
    assert len(sources) == 10 * 4
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_shows_verdict_digests_controls_and_limits(good_run: RunResult) -> None:
    page = render_report(good_run.audit, stored_images(good_run))
    for text in (
        "PASSED",
        "Planted leak, must be caught",
        "Null control, must stay quiet",
        "What this verdict does not say",
        "blurred",
    ):
        assert text in page
    for subject in good_run.audit.subjects:
        assert str(subject.digest) in page
    assert str(good_run.audit.policy.digest) in page


def test_text_from_models_and_bundles_is_escaped(good_run: RunResult) -> None:
    hostile = '<img src=x onerror="alert(1)">'
    subjects = tuple(
        replace(subject, id=subject.id if subject.id == "original" else hostile) for subject in good_run.audit.subjects
    )
    subjects = tuple(replace(subject, ruling=replace(subject.ruling, reasons=(hostile,))) for subject in subjects)
    (family,) = good_run.audit.families
    families = (replace(family, detail={**family.detail, hostile: family.detail["int8-static"]}),)
    audit = replace(
        good_run.audit,
        subjects=subjects,
        families=families,
        bundle={"path": hostile, "manifest": hostile},
        tools={hostile: hostile},
    )
    images = stored_images(good_run)
    images = replace(images, reconstructions={"original": images.class_means, hostile: images.class_means})
    page = render_report(audit, images)
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_an_audit_that_could_judge_nothing_still_has_a_page(good_run: RunResult) -> None:
    (family,) = good_run.audit.families
    detail = {
        name: {"tests": [], "attacks": [], "delta": [], "access": {**entry["access"], "parity": None}}
        for name, entry in family.detail.items()
    }
    audit = replace(good_run.audit, families=(replace(family, detail=detail),))
    page = render_report(audit, replace(stored_images(good_run), reconstructions={}))
    assert "No statistic could be computed" in page


def test_series_are_drawn_as_lines(good_run: RunResult) -> None:
    series = prepare(np.random.default_rng(0).uniform(size=(10, 50)).astype(np.float32), private=False)
    assert series.shape == (10, 12)
    page = render_report(good_run.audit, ReportImages(series, series, {"original": series}, False))
    assert page.count("<polyline") == 30


def test_square_flat_records_are_taken_as_images_and_others_are_not() -> None:
    assert image_grid((64,)) == (8, 8)
    assert image_grid((1, 784)) == (28, 28)
    assert image_grid((50,)) is None
    assert image_grid((4,)) is None
    assert image_grid((3, 8, 8)) is None


def test_a_blurred_picture_is_never_the_picture() -> None:
    images = np.random.default_rng(0).uniform(size=(2, 3, 4, 6)).astype(np.float32)
    assert prepare(images, private=False).shape == (2, 3, 2, 3)
    assert prepare(images, private=True).shape == images.shape


def test_the_png_holds_the_pixels() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = png(pixels)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (4, 3)
    (body,) = re.findall(rb"IDAT(.*).{4}\x00\x00\x00\x00IEND", data, re.DOTALL)
    assert zlib.decompress(body) == b"".join(b"\x00" + row.tobytes() for row in pixels)


def test_a_detail_that_is_not_a_number_is_an_error_and_never_markup(good_run: RunResult) -> None:
    hostile = '<meta http-equiv="refresh" content="0;url=http://evil/">'
    audit = good_run.audit
    (family,) = audit.families
    for key in ("alarms", "trials"):
        relabellings = {**family.shared["relabellings"], key: hostile}
        edited = replace(audit, families=(replace(family, shared={**family.shared, "relabellings": relabellings}),))
        with pytest.raises(FormatError) as refused:
            render_report(edited, stored_images(good_run))
        assert refused.value.code == "audit_syntax"
    with pytest.raises(FormatError):
        render_report(replace(audit, families=(replace(family, shared={}),)), stored_images(good_run))
