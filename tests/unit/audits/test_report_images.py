"""What is stored to be shown: blurred unless asked for, in the form that fits the input, and read back strictly."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from audits.report.forms import Kind, form_of
from audits.report.images import COARSE, COARSE_POINTS, WHITE_BOX, ReportImages, keep, read_images
from audits.report.page import render_page
from audits.report.pictures import picture
from audits.report.png import pixels, png
from device_client.errors import FormatError
from tests.unit.audits import models, page_example

RNG_SEED = 7


def class_pictures() -> np.ndarray[Any, np.dtype[np.float32]]:
    x, y = models.digits()
    means = [x[y == label].mean(axis=0) for label in range(10)]
    return np.stack([*means, *(x[y == label][0] for label in range(10))])


def walk(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random walks along the last axis: neighbours are alike."""
    return np.random.default_rng(RNG_SEED).normal(size=shape).cumsum(axis=-1).astype(np.float32)


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values that have nothing to do with their neighbours."""
    return np.random.default_rng(RNG_SEED).normal(size=shape).astype(np.float32)


def kept(records: np.ndarray[Any, np.dtype[np.float32]], *, private: bool = False) -> ReportImages:
    half = len(records) // 2
    means, held = records[:half], records[half:]
    made = {("original", WHITE_BOX): means}
    return keep(class_means=means, heldouts=held, reconstructions=made, private=private, start=means[0], records={"ab12": held[0]})


def test_a_picture_written_flat_is_drawn_as_a_picture() -> None:
    form = form_of(class_pictures())
    assert (form.kind, form.folded) == (Kind.IMAGE, (1, 8, 8))


@pytest.mark.parametrize("size", [9, 16, 64, 100, 400])
def test_a_table_is_never_drawn_as_a_picture_though_its_columns_make_a_square(size: int) -> None:
    shared = np.random.default_rng(1).normal(size=(20, 1)).astype(np.float32)
    for records in (
        noise(20, size),
        np.sign(noise(20, size)),
        noise(20, size) + 3 * shared,
        noise(20, size) * np.arange(1, size + 1),
    ):
        assert form_of(records.astype(np.float32)).kind is Kind.TABLE


def test_lines_are_drawn_along_time_whichever_axis_that_is() -> None:
    assert form_of(walk(10, 140)).kind is Kind.SERIES
    assert form_of(walk(10, 1, 140)).arrange(walk(10, 1, 140)).shape == (10, 1, 140)
    channels_first = walk(10, 6, 50)
    for records in (channels_first, channels_first.transpose(0, 2, 1)):
        form = form_of(records)
        assert form.kind is Kind.SERIES
        np.testing.assert_array_equal(form.arrange(records), channels_first)


def test_colour_may_stand_before_or_after_the_picture() -> None:
    first = noise(4, 3, 8, 6)
    for records in (first, first.transpose(0, 2, 3, 1)):
        np.testing.assert_array_equal(form_of(records).arrange(records), first)


def test_three_channels_are_shown_in_colour_and_others_as_their_mean() -> None:
    image = np.zeros((3, 2, 2), dtype=np.float32)
    image[0] = 1.0
    np.testing.assert_array_equal(pixels(image, low=0.0, high=1.0)[0, 0], [255, 0, 0])
    assert pixels(image[:2], low=0.0, high=1.0).tolist() == [[128, 128], [128, 128]]
    assert pixels(np.full((1, 1, 1), 9.0, dtype=np.float32), low=0.0, high=1.0).tolist() == [[255]]


@pytest.mark.parametrize(
    ("records", "shape"),
    [
        (class_pictures(), (10, 1, COARSE, COARSE)),
        (noise(4, 3, 24, 24), (2, 3, COARSE, COARSE)),
        (noise(4, 3, 4, 6), (2, 3, 2, 3)),
        (walk(10, 140), (5, 1, COARSE_POINTS)),
        (walk(10, 3, 20), (5, 3, 10)),
        (noise(10, 30), (5, COARSE_POINTS)),
        (noise(10, 5), (5, 2)),
    ],
    ids=["digits", "colour", "small picture", "series", "channels", "table", "narrow table"],
)
def test_what_is_stored_by_default_is_averaged_over_more_than_one_value_each(
    records: np.ndarray[Any, np.dtype[np.float32]], shape: tuple[int, ...]
) -> None:
    images = kept(records)
    assert images.start is not None
    assert {values.shape for values in (images.class_means, images.heldouts, *images.reconstructions.values())} == {shape}
    assert images.start.shape == (1, *shape[1:])
    assert np.prod(shape[1:]) <= np.prod(records.shape[1:]) / 2
    assert images.records == {}
    assert records[-1].tobytes() not in images.to_bytes()


def test_full_pictures_and_records_are_kept_when_asked_for() -> None:
    records = class_pictures()
    images = kept(records, private=True)
    np.testing.assert_array_equal(images.heldouts.reshape(10, 64), records[10:])
    np.testing.assert_array_equal(images.records["ab12"].reshape(64), records[10])


def test_columns_of_a_table_are_compared_in_spreads_so_that_units_do_not_matter() -> None:
    table = noise(12, 30)
    scaled = (table * np.geomspace(1e-3, 1e6, 30)).astype(np.float32)
    np.testing.assert_allclose(kept(scaled).class_means, kept(table).class_means, atol=1e-4)


def test_stored_images_read_back_and_are_the_same_bytes_each_time() -> None:
    for records in (class_pictures(), walk(10, 140), noise(10, 30)):
        images = kept(records, private=True)
        data = images.to_bytes()
        assert data == kept(records, private=True).to_bytes()
        again = read_images(data, where="images")
        assert (again.kind, again.private, set(again.records)) == (images.kind, True, {"ab12"})
        assert again.to_bytes() == data


def archive(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "kind": np.array("image"),
        "private": np.array(False),
        "class_means": np.zeros((2, 1, 4, 4), dtype=np.float32),
        "heldouts": np.zeros((2, 1, 4, 4), dtype=np.float32),
    }
    fields |= changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in fields.items() if value is not None})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"heldouts": None},
        {"kind": np.array("film")},
        {"heldouts": np.zeros((3, 1, 4, 4), dtype=np.float32)},
        {"heldouts": np.zeros((2, 16), dtype=np.float32)},
        {"heldouts": np.full((2, 1, 4, 4), np.nan, dtype=np.float32)},
        {"heldouts": np.zeros((2, 1, 4, 4))},
        {"class_means": np.array([{}], dtype=object)},
        {"record/ab": np.zeros((1, 1, 4, 4), dtype=np.float32)},
        {"start": np.zeros((2, 1, 4, 4), dtype=np.float32)},
    ],
    ids=[
        "no hold-outs", "an unknown kind", "other numbers of classes", "other dimensions", "values that are no numbers",
        "wider numbers", "a pickle", "a record among blurred pictures", "two starts",
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_was_written_is_refused(changes: dict[str, Any]) -> None:
    read_images(archive(), where="images")
    with pytest.raises(FormatError) as refused:
        read_images(archive(**changes), where="images")
    assert refused.value.code == "audit_images"


def test_series_are_drawn_as_lines_and_tables_as_bars_and_neither_as_an_image() -> None:
    low_high = {"low": 0.0, "high": 1.0}
    series, table = kept(walk(10, 2, 50)), kept(noise(10, 30))
    assert picture(series.heldouts[0], series, label="x", **low_high).count("<polyline") == 2
    assert picture(table.heldouts[0], table, label="x", **low_high).count("<rect") == COARSE_POINTS
    for shape in ((140,), (30,)):
        images = page_example.pictures(shape) if shape == (140,) else kept(noise(20, 30))
        assert "<img" not in render_page(page_example.view(), images)


def test_records_are_shown_in_full_reports_only() -> None:
    full, blurred = (
        render_page(page_example.view(), page_example.pictures((1, 12, 10), private=private)) for private in (True, False)
    )
    assert full.count('alt="record ') == 1
    assert 'alt="record ' not in blurred
    assert "handle this file like the records" in full
    assert "handle this file like the records" not in blurred


def test_the_png_holds_the_pixels() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = png(values)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (4, 3)
    (body,) = re.findall(rb"IDAT(.*).{4}\x00\x00\x00\x00IEND", data, re.DOTALL)
    assert zlib.decompress(body) == b"".join(b"\x00" + row.tobytes() for row in values)
