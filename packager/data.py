"""Reads DATA: arrays to calibrate and judge a model on, from ``module:function`` or an ``.npz`` file.

One array per model input (``x`` where there is one input), as the model gets them; optional ``y`` (labels or
targets), ``groups`` (subject or engine ids, never split across parts) and ``split`` (``calibration``, ``validation``,
``test``, ``train``). Dividing into parts is ``split.py``, what to do without data is ``synthetic.py``.

An input without a batch axis of its own (a scalar, or the state of a recurrent network, whose first axis is the layer)
has one whole tensor per row, so its array has one axis more than the input; ``feed.py`` makes runs of it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.bundle.digest import Digest
from device_client.entrypoint import is_entry_point, load_entry_point
from device_client.errors import UsageError
from device_client.inference.walker import ValueSpec
from packager.feed import row_shape

Array = NDArray[Any]
RESERVED = ("y", "groups", "split")


@dataclass(frozen=True)
class Dataset:
    """Rows of data, all arrays of the same length, in the order of the source.

    ``inputs``: per model input, (N, ...), of that input's dtype. ``labels``: (N,) or (N, ...). ``groups`` and
    ``split``: (N,) of strings or integers.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    groups: Array | None
    split: Array | None
    where: str

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: NDArray[np.int64]) -> Dataset:
        """The given rows, in the given order."""
        return Dataset(
            {name: array[rows] for name, array in self.inputs.items()},
            None if self.labels is None else self.labels[rows],
            None if self.groups is None else self.groups[rows],
            None if self.split is None else self.split[rows],
            self.where,
        )

    def join(self, other: Dataset) -> Dataset:
        """These rows, then the other's, which come from the same source."""

        def both(mine: Array | None, others: Array | None) -> Array | None:
            return None if mine is None or others is None else np.concatenate([mine, others])

        return Dataset(
            {name: np.concatenate([array, other.inputs[name]]) for name, array in self.inputs.items()},
            both(self.labels, other.labels),
            both(self.groups, other.groups),
            both(self.split, other.split),
            self.where,
        )

    def row_digests(self) -> list[bytes]:
        """SHA-256 of each row over all inputs: two rows are equal exactly if a model cannot tell them apart."""
        names = sorted(self.inputs)
        arrays = [np.ascontiguousarray(self.inputs[name]) for name in names]
        return [hashlib.sha256(b"".join(array[row].tobytes() for array in arrays)).digest() for row in range(len(self))]

    def digest(self) -> Digest:
        """Digest of the rows with their labels and groups; the order of rows counts."""
        state = hashlib.sha256()
        columns = {**{f"input/{name}": array for name, array in self.inputs.items()}, "y": self.labels, "groups": self.groups}
        for name, array in sorted(columns.items()):
            if array is not None:
                values = array if array.dtype.kind != "U" else np.char.encode(array, "utf-8")
                state.update(f"{name}|{values.dtype.str}|{values.shape}|".encode())
                state.update(np.ascontiguousarray(values).tobytes())
        return Digest(state.hexdigest())


def read_arrays(text: str) -> dict[str, Array]:
    """Reads DATA as it is: named arrays, not yet compared with a model.

    Args:
        text: ``module:function`` (no arguments, returns a mapping of arrays) or the path of an ``.npz`` file.

    Raises:
        UsageError: not readable, or not a mapping of arrays.
    """
    if not is_entry_point(text):
        return _read_npz(Path(text))
    found = load_entry_point(text)()
    if not isinstance(found, Mapping):
        raise UsageError(
            "the data function must return a mapping of arrays",
            code="data_type",
            where=text,
            expected="{'x': ..., 'y': ...}",
            actual=type(found).__name__,
        )
    return {str(name): np.asarray(array) for name, array in found.items() if array is not None}


def fit_dataset(arrays: Mapping[str, Array], inputs: Sequence[ValueSpec], *, where: str) -> Dataset:
    """Checks arrays against the model's inputs and brings them into the inputs' types.

    Args:
        arrays: from ``read_arrays``.
        inputs: what the model takes.
        where: the data's name, for errors.

    Raises:
        UsageError: missing or unknown arrays, other lengths, types or shapes than the model's.
    """
    return _check(dict(arrays), inputs, where=where)


def _read_npz(path: Path) -> dict[str, Array]:
    hint = "save it with numpy.savez(file, x=..., y=...), or give module:function"
    if not path.is_file():
        raise UsageError("data file not found", code="data_missing", where=str(path), hint=hint)
    try:
        # allow_pickle=False: an object array is a pickle, and a pickle is a program.
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            archive = np.load(file, allow_pickle=False) if is_zip else None
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UsageError(
                    "not an .npz archive", code="data_syntax", where=str(path), expected="several named arrays", hint=hint
                )
            with archive:
                return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError, MemoryError) as e:
        raise UsageError(
            "cannot read the data file",
            code="data_syntax",
            where=str(path),
            expected="an .npz without objects",
            actual=e,
            hint=hint,
        ) from e


def _check(arrays: dict[str, Array], inputs: Sequence[ValueSpec], *, where: str) -> Dataset:
    names = [spec.name for spec in inputs]
    if len(names) == 1 and names[0] not in arrays and "x" in arrays:
        arrays = {names[0] if name == "x" else name: array for name, array in arrays.items()}
    expected = f"{', '.join(names)} (or x where there is one input), optional {', '.join(RESERVED)}"
    missing = [name for name in names if name not in arrays]
    extra = [name for name in arrays if name not in names and name not in RESERVED]
    if missing or extra:
        raise UsageError(
            "the data does not fit the model's inputs",
            code="data_names",
            where=where,
            expected=expected,
            actual=", ".join(sorted(arrays)) or "no array",
            hint=f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(extra) or 'none'}",
        )
    rows = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        raise UsageError(
            "the arrays must have the same number of rows, at least one",
            code="data_rows",
            where=where,
            expected="one row per sample in each array",
            hint="look at the first axis of each array; an input without a batch axis has one whole tensor per row",
            actual=", ".join(f"{name}: {count}" for name, count in sorted(rows.items())),
        )
    for name in ("groups", "split"):
        if name in arrays and (arrays[name].ndim != 1 or arrays[name].dtype.kind not in "USiu"):
            raise UsageError(
                f"'{name}' must be one string or integer per row",
                code="data_type",
                where=where,
                expected="(rows,) of strings or integers",
                actual=_describe(arrays[name]),
                hint=f"convert it, as in {name}.astype(str)",
            )
    if "y" in arrays and arrays["y"].dtype.kind not in "fiub":
        raise UsageError(
            "wrong type of 'y'",
            code="data_type",
            where=where,
            expected="numbers",
            actual=_describe(arrays["y"]),
            hint="give the number of each class, in the order of the model's scores, instead of its name",
        )
    return Dataset(
        {spec.name: _fit(arrays[spec.name], spec, where=where) for spec in inputs},
        _finite(arrays["y"], "y", where=where) if "y" in arrays else None,
        arrays.get("groups"),
        _as_text(arrays["split"]) if "split" in arrays else None,
        where,
    )


def _fit(array: Array, spec: ValueSpec, *, where: str) -> Array:
    """The array in the input's dtype, if that loses nothing but float precision, and in its shape."""
    shape, whole = row_shape(spec), spec.shape or ()
    if whole[:1] == (1,) and array.ndim == len(whole) + 1 and array.shape[1] == 1:
        array = array[:, 0]  # a whole tensor per row: of a first axis of one that is the same
    elif array.ndim == len(whole) + 1:
        shape = whole  # the first axis is another one than the batch, such as time
    fits = len(shape) + 1 == array.ndim and all(
        have > 0 and (not isinstance(want, int) or want == have) for want, have in zip(shape, array.shape[1:], strict=True)
    )
    if not fits:
        raise UsageError(
            f"wrong shape of '{spec.name}'",
            code="data_shape",
            where=where,
            expected=f"(rows, {', '.join(str(size or '?') for size in shape)})",
            actual=array.shape,
            hint="give the array exactly as the model gets it, with one row per sample",
        )
    wanted = np.dtype(spec.dtype or "float32")
    kinds = {"f": "fiub", "i": "iub", "u": "ub", "b": "b"}.get(wanted.kind, wanted.kind)
    if array.dtype.kind not in kinds:
        raise UsageError(
            f"wrong type of '{spec.name}'", code="data_type", where=where, expected=wanted.name, actual=_describe(array)
        )
    converted = array.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(converted, array):
        raise UsageError(
            f"values of '{spec.name}' do not fit {wanted.name}", code="data_type", where=where, actual=_describe(array)
        )
    return _finite(converted, spec.name, where=where)


def _finite(array: Array, name: str, *, where: str) -> Array:
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise UsageError(
            f"'{name}' holds NaN or infinity",
            code="data_value",
            where=where,
            expected="finite numbers",
            actual=f"{int(np.sum(~np.isfinite(array)))} of {array.size} are not",
            hint="drop or repair those rows",
        )
    if array.dtype.kind not in "fiubUS":
        raise UsageError(f"wrong type of '{name}'", code="data_type", where=where, expected="numbers", actual=_describe(array))
    return array


def _as_text(array: Array) -> Array:
    return np.char.decode(array, "ascii") if array.dtype.kind == "S" else array.astype(np.str_)


def _describe(array: Array) -> str:
    return f"{array.dtype} {array.shape}"
