"""The records an audit needs: inputs, labels and who was in the training set.

DATA is ``module:function`` returning a mapping, or an ``.npz`` without pickles, with ``x``, ``y`` and ``member`` (true: was
used for training). Such a function is somebody's code: it runs in a child without keys and without network
(``audits/isolated``), started in the folder of the command so that relative file names mean what they say. Records are private:
they never enter ``audit.json``, only counts and a digest do.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audits.isolated.arrays import parse_array
from audits.isolated.limits import IsolationLimits
from audits.isolated.process import Job, run_tasks
from device_client.bundle.digest import Digest
from device_client.entrypoint import is_entry_point
from device_client.errors import UsageError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_ARRAYS = ("x", "y", "member")
_ROUNDED = 32  # float32 numbers in a row that count as one: 4e-6 of the value
_HINT = "give x (one row per record), y (class index per record) and member (true: was used for training)"


@dataclass(frozen=True)
class AuditData:
    """Checked records.

    Attributes:
        x: float32, (N, ...), as the model takes them, one record per row.
        y: int64, (N,), class indices from 0.
        member: bool, (N,).
        digest: SHA-256 over shapes and bytes of the three.
    """

    x: Floats
    y: Integers
    member: Bools
    digest: Digest

    @property
    def classes(self) -> int:
        """Number of classes that the labels span."""
        return int(self.y.max()) + 1


def load_data(text: str, *, limits: IsolationLimits | None = None) -> AuditData:
    """Reads and checks DATA.

    Args:
        text: ``module:function``, or a file.
        limits: bounds of the child that calls the function.

    Raises:
        SealiftError: the function failed, or went over a bound (``isolated_...``).
        UsageError: missing array, wrong shape or type, or members that are also held-outs.
    """
    if is_entry_point(text) and not Path(text).exists():
        return check_data(_call_in_child(text, limits or IsolationLimits()), where=text)
    return check_data(_load_npz(Path(text)), where=text)


def check_data(arrays: Mapping[str, Any], *, where: str) -> AuditData:
    """Turns a mapping into checked records.

    Raises:
        UsageError: see ``load_data``.
    """
    for name in _ARRAYS:
        if name not in arrays:
            raise UsageError("array missing", code="audit_data", where=where, expected=name, hint=_HINT)
    x, y, member = (np.asarray(arrays[name]) for name in _ARRAYS)
    if x.ndim < 2 or len(x) == 0 or x.dtype.kind not in "fiub":
        raise _wrong(where, "x", "numbers of shape (records, ...)", x)
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or int(y.min()) < 0:
        raise _wrong(where, "y", f"{len(x)} class indices from 0", y)
    if member.shape != (len(x),) or not (
        member.dtype == np.bool_ or (member.dtype.kind in "iu" and set(np.unique(member)) <= {0, 1})
    ):
        raise _wrong(where, "member", f"{len(x)} booleans", member)
    x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        raise UsageError("x holds NaN or infinite values", code="audit_data", where=where, hint="drop or repair those records")
    y, member = np.ascontiguousarray(y, dtype=np.int64), np.ascontiguousarray(member, dtype=np.bool_)
    _check_disjoint(x, member, where=where)
    return AuditData(x, y, member, _digest(x, y, member))


def _call_in_child(text: str, limits: IsolationLimits) -> dict[str, Any]:
    """The arrays that the function returned, through bounded readers; what it left out is missing."""
    job = Job(entry=text, kind="call", tasks=len(_ARRAYS), options={"arrays": list(_ARRAYS)}, in_callers_folder=True)
    results = run_tasks(job, limits=limits).results
    return {name: parse_array(data, where=f"{text}: {name}") for name, data in zip(_ARRAYS, results, strict=True) if data}


def _load_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in _ARRAYS if name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, MemoryError) as e:
        raise UsageError(
            "cannot read the data file",
            code="audit_data",
            where=str(path),
            expected=".npz without objects, or module:function",
            actual=str(e).splitlines()[0][:160] if str(e) else type(e).__name__,
            hint=_HINT,
        ) from e


def _check_disjoint(x: Floats, member: Bools, *, where: str) -> None:
    """A record on both sides makes the comparison of the sides meaningless; also one that took another way of rounding there."""
    bits = (x.reshape(len(x), -1) + np.float32(0.0)).view(np.int32)  # the sum makes zeros of minus zeros
    rows = [row.tobytes() for row in (bits.astype(np.int64) + _ROUNDED // 2) & -_ROUNDED]
    both = {row for row, inside in zip(rows, member, strict=True) if inside} & {
        row for row, inside in zip(rows, member, strict=True) if not inside
    }
    if both:
        raise UsageError(
            "members and held-outs overlap",
            code="audit_data_overlap",
            where=where,
            actual=f"{len(both)} records that are both, but for rounding",
            hint="remove the duplicates from one side",
        )


def _wrong(where: str, name: str, expected: str, array: npt.NDArray[Any]) -> UsageError:
    return UsageError(
        f"wrong {name}", code="audit_data", where=where, expected=expected, actual=f"{array.dtype} {array.shape}", hint=_HINT
    )


def _digest(*arrays: npt.NDArray[Any]) -> Digest:
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape};".encode())
        state.update(array.tobytes())
    return Digest(state.hexdigest())
