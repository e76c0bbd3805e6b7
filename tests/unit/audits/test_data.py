"""Records are checked before anything is attacked; nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audits.data import check_data, load_data
from device_client.errors import UsageError

X = np.arange(24, dtype=np.float64).reshape(6, 4)
Y = np.array([0, 0, 0, 1, 1, 1])
MEMBER = np.array([True, False, True, False, True, False])

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"x": X, "member": MEMBER}, "audit_data"),
    "no membership": ({"x": X, "y": Y}, "audit_data"),
    "labels of another length": ({"x": X, "y": Y[:5], "member": MEMBER}, "audit_data"),
    "labels that are fractions": ({"x": X, "y": Y / 2, "member": MEMBER}, "audit_data"),
    "a negative label": ({"x": X, "y": Y - 1, "member": MEMBER}, "audit_data"),
    "membership that is a score": ({"x": X, "y": Y, "member": MEMBER * 0.5}, "audit_data"),
    "records that are text": ({"x": X.astype(str), "y": Y, "member": MEMBER}, "audit_data"),
    "records without features": ({"x": Y, "y": Y, "member": MEMBER}, "audit_data"),
    "no records": ({"x": X[:0], "y": Y[:0], "member": MEMBER[:0]}, "audit_data"),
    "records that are not finite": ({"x": np.full_like(X, np.nan), "y": Y, "member": MEMBER}, "audit_data"),
    "a record on both sides but for rounding": (
        {"x": np.vstack([X[:5] / 7, np.nextafter((X[:1] / 7).astype(np.float32), np.float32(9))]), "y": Y, "member": MEMBER},
        "audit_data_overlap",
    ),
    "a record on both sides": ({"x": np.vstack([X[:5], X[:1]]), "y": Y, "member": MEMBER}, "audit_data_overlap"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_records_are_refused_by_name(name: str) -> None:
    arrays, code = BAD[name]
    with pytest.raises(UsageError) as refused:
        check_data(arrays, where="records.npz")
    assert refused.value.code == code
    assert refused.value.where == "records.npz"


def test_a_file_and_a_function_give_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "records.npz", x=X, y=Y, member=MEMBER.astype(np.uint8))
    (tmp_path / "audit_records_module.py").write_text(
        "import numpy as np\n\ndef records():\n    return dict(np.load('records.npz'))\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    from_file, from_function = load_data("records.npz"), load_data("audit_records_module:records")
    assert from_file.digest == from_function.digest
    assert from_file.x.dtype == np.float32
    assert from_file.classes == 2


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "records.npz", x=np.array([{}], dtype=object), y=Y, member=MEMBER)
    with pytest.raises(UsageError, match="cannot read the data file"):
        load_data(str(tmp_path / "records.npz"))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records.npz").write_bytes(b"not an archive")
    with pytest.raises(UsageError, match="cannot read the data file"):
        load_data(str(tmp_path / "records.npz"))
