"""Pictures of private records: blurred before they leave memory, full only when the auditor asks for it.

Class means, held-outs and reconstructions are all private. The image file of a run holds what the report may show and no
more, so a report can be made again later without the records, and cannot show more than was decided at the run.
A coarse grid still shows a rough shape: blurred is less, and not nothing.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from audits.data import Floats
from audits.report.forms import Form, Kind, form_of
from device_client.errors import FormatError

COARSE = 4  # cells on a side of a blurred image
COARSE_POINTS = 12  # points of a blurred series or table
WHITE_BOX, BLACK_BOX, LABEL_ONLY, TRANSFER = "white_box", "black_box", "label_only", "transfer"
WAYS = (WHITE_BOX, BLACK_BOX, LABEL_ONLY, TRANSFER)
SPREADS = 4.0  # a table's values are stored in spreads of their column, cut off here
_MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
_MEANS, _HELD, _START, _PREFIX, _RECORD = "class_means", "heldouts", "start", "reconstruction/", "record/"
_DIMENSIONS = {Kind.IMAGE: 4, Kind.SERIES: 3, Kind.TABLE: 2}


@dataclass(frozen=True)
class ReportImages:
    """What a report shows, from ``keep``; blurred unless ``private``.

    Attributes:
        kind: image (K, channels, H, W), series (K, channels, points) or table (K, features), for all arrays.
        class_means, heldouts: one entry per class.
        reconstructions: by subject id and way (``WAYS``), one entry per class.
        start: one entry: where the attacks began; None where unknown.
        records: by salted id, one entry each: the worst records; empty unless ``private``.
    """

    kind: Kind
    class_means: Floats
    heldouts: Floats
    reconstructions: Mapping[tuple[str, str], Floats]
    private: bool
    start: Floats | None = None
    records: Mapping[str, Floats] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """An ``.npz`` without pickles; the same bytes for the same images."""
        arrays = {
            "kind": np.array(self.kind.value),
            "private": np.array(self.private),
            _MEANS: self.class_means,
            _HELD: self.heldouts,
        }
        if self.start is not None:
            arrays[_START] = self.start
        arrays |= {f"{_PREFIX}{way}/{name}": images for (name, way), images in self.reconstructions.items()}
        arrays |= {_RECORD + name: image for name, image in self.records.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # keyword names are array names, mypy takes allow_pickle's type
        return buffer.getvalue()


def keep(
    *,
    class_means: Floats,
    heldouts: Floats,
    reconstructions: Mapping[tuple[str, str], Floats],
    private: bool,
    start: Floats | None = None,
    records: Mapping[str, Floats] | None = None,
) -> ReportImages:
    """Makes of a run's arrays what may be stored.

    Args:
        class_means: (C, ...) in the model's input shape.
        heldouts: (C, ...), one record of each class that did not train the model.
        reconstructions: by subject id and way, (C, ...).
        private: keep full pictures. Otherwise averages over at most ``COARSE`` by ``COARSE`` cells or ``COARSE_POINTS`` pieces.
        start: (...), the first image of every attack.
        records: by salted id, (...); left out unless ``private``.
    """
    form = form_of(np.concatenate([class_means, heldouts]))
    spread = _column_spread(class_means, heldouts)

    def shown(values: Floats) -> Floats:
        compared = _in_spreads(values, class_means.mean(axis=0), spread) if form.kind is Kind.TABLE else values
        arranged = form.arrange(compared)
        return arranged.astype(np.float32) if private else blurred(arranged, form)

    return ReportImages(
        kind=form.kind,
        class_means=shown(class_means),
        heldouts=shown(heldouts),
        reconstructions={key: shown(values) for key, values in reconstructions.items()},
        private=private,
        start=None if start is None else shown(start[None]),
        records={name: shown(record[None]) for name, record in (records or {}).items()} if private else {},
    )


def blurred(values: Floats, form: Form) -> Floats:
    """Averages over a coarse grid, or over pieces of a series or table."""
    if form.kind is Kind.IMAGE:
        return _pool(_pool(values, 2, COARSE), 3, COARSE)
    return _pool(values, values.ndim - 1, COARSE_POINTS)


def read_images(data: bytes, *, where: str) -> ReportImages:
    """Reads what ``to_bytes`` wrote.

    Raises:
        FormatError: another file, or arrays that are missing, pickled, of another type or shape, or too large (``audit_images``).
    """
    try:
        found = _arrays(data)
        kind = Kind(str(found.pop("kind")))
        private = bool(found.pop("private"))
        for name, values in found.items():
            if values.dtype != np.float32 or values.ndim != _DIMENSIONS[kind] or not np.isfinite(values).all():
                raise ValueError(f"{name} is no {kind.value}")
        means, held, start = found.pop(_MEANS), found.pop(_HELD), found.pop(_START, None)
        rebuilt = {_key(name): values for name, values in found.items() if name.startswith(_PREFIX)}
        records = {name.removeprefix(_RECORD): values for name, values in found.items() if name.startswith(_RECORD)}
        _check_counts(means, held, rebuilt, start, records, private=private)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise FormatError("not the images of an audit", code="audit_images", where=where, actual=str(e)[:120]) from e
    return ReportImages(kind, means, held, rebuilt, private, start, records)


def _arrays(data: bytes) -> dict[str, Floats]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED_BYTES:
            raise ValueError("too large when unpacked")
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _key(name: str) -> tuple[str, str]:
    way, _, subject = name.removeprefix(_PREFIX).partition("/")
    return subject, way


def _check_counts(
    means: Floats,
    held: Floats,
    rebuilt: Mapping[tuple[str, str], Floats],
    start: Floats | None,
    records: Mapping[str, Floats],
    *,
    private: bool,
) -> None:
    """The page indexes by class, so every array has one entry per class; full records are in no blurred file."""
    if any(len(values) != len(means) for values in (held, *rebuilt.values())):
        raise ValueError("the numbers of classes differ")
    if any(len(values) != 1 for values in (*records.values(), *([] if start is None else [start]))):
        raise ValueError("more than one picture where one belongs")
    if records and not private:
        raise ValueError("records in a file of blurred images")


def _column_spread(class_means: Floats, heldouts: Floats) -> Floats:
    spread = np.concatenate([class_means, heldouts]).std(axis=0)
    usable: Floats = np.where(spread > 0, spread, 1.0).astype(np.float32)
    return usable


def _in_spreads(values: Floats, centre: Floats, spread: Floats) -> Floats:
    """Columns of a table have units of their own; in spreads from the middle they can stand side by side."""
    compared: Floats = np.clip((values - centre) / spread, -SPREADS, SPREADS).astype(np.float32)
    return compared


def _pool(values: Floats, axis: int, cells: int) -> Floats:
    """Means over ``cells`` nearly equal pieces of one axis; at most half of its length, so that something is always lost."""
    length = values.shape[axis]
    edges = np.linspace(0, length, max(1, min(cells, length // 2)) + 1).round().astype(int)
    pieces = [values.take(range(a, b), axis=axis).mean(axis=axis) for a, b in pairwise(edges)]
    return np.stack(pieces, axis=axis).astype(np.float32)
