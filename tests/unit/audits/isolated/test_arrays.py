"""Arrays from a child are read by what is there, never by what a header claims."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from audits.isolated.arrays import array_bytes, parse_array, read_bounded
from device_client.errors import SealiftError


def _header(text: str, *, body: bytes = b"") -> bytes:
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode() + body


def _pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray([{}], dtype=object), allow_pickle=True)
    return stream.getvalue()


BAD = {
    "a pickled array": _pickled(),
    "an array that claims a terabyte": _header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (137438953472,), }", body=b"12345678"
    ),
    "an array with bytes after its end": array_bytes(np.arange(3)) + b"\x00",
    "an array that was cut": array_bytes(np.arange(3))[:-1],
    "text": array_bytes(np.asarray(["a"])),
    "a header that is no literal": _header("__import__('os').system('true')"),
    "a negative dimension": _header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_plain_array_are_refused(name: str) -> None:
    with pytest.raises(SealiftError) as refused:
        parse_array(BAD[name], where="test")
    assert refused.value.code == "isolated_result"


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.eye(3)), np.asarray(5), np.zeros((0, 4))]
)
def test_an_array_survives_the_way_there_and_back(array: np.ndarray) -> None:  # type: ignore[type-arg]
    found = parse_array(array_bytes(array), where="test")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_only_regular_files_within_the_bound_are_read(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 11)
    (tmp_path / "short").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "short")
    os.mkfifo(tmp_path / "pipe")
    for name in ("long", "link", "pipe", "missing"):
        with pytest.raises(SealiftError) as refused:
            read_bounded(tmp_path / name, max_bytes=10, where=name)
        assert refused.value.code == "isolated_result"
    assert read_bounded(tmp_path / "short", max_bytes=10, where="short") == b"x"
    assert read_bounded(tmp_path / "long", max_bytes=11, where="long") == b"x" * 11
