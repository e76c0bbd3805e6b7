"""Divides data into calibration, validation and test parts that share no row and no group.

Calibration data sets the ranges of a quantised model, validation data is what a search may choose by, and only the
test part gives the figures in the report. Rows to train on are a part of their own, and only where the data says so:
which rows a model may learn from is no decision of ours. The split is the data's own (``split`` column), or follows from
the seed and the rows' digests, so that it depends neither on the order of rows nor on the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.bundle.digest import Digest
from device_client.errors import UsageError
from packager.data import Dataset

PARTS = ("calibration", "validation", "test", "train")


@dataclass(frozen=True)
class DataParts:
    """Disjoint parts of one data set; ``validation`` may be empty.

    ``origin``: who divided, the data's ``given`` split or the ``seed``; or ``synthetic``: there was no data, and every
    row was made up. ``train``: rows that techniques may train on; only data with a ``split`` of its own has them.
    """

    calibration: Dataset
    validation: Dataset | None
    test: Dataset
    origin: str
    train: Dataset | None = None

    def digests(self) -> tuple[tuple[str, Digest], ...]:
        """Name and digest of each part that has rows, for the contract's lineage."""
        parts = (("calibration", self.calibration), ("test", self.test), ("train", self.train), ("validation", self.validation))
        return tuple((name, part.digest()) for name, part in parts if part is not None)


def split_dataset(
    data: Dataset, *, seed: int, calibration_share: float, validation_share: float, max_calibration_rows: int
) -> DataParts:
    """Divides ``data`` by its ``split`` column, or by seed where it has none.

    Identical rows and rows of one group always land in the same part. More than ``max_calibration_rows`` calibration
    rows are cut down by the same seeded order; the rest of them is not used for anything else.

    Raises:
        UsageError: a part that is needed is empty, a group is in two parts, or one row is in two parts.
    """
    digests = data.row_digests()
    if data.split is not None:
        labels = _given_labels(data, digests)
        origin = "given"
    else:
        labels = _seeded_labels(data, digests, seed=seed, shares=(calibration_share, validation_share))
        origin = "seed"
    rows = {part: np.flatnonzero(labels == part) for part in PARTS}
    for part in ("calibration", "test"):
        if not len(rows[part]):
            raise UsageError(
                f"the {part} part has no row",
                code="data_split",
                where=data.where,
                expected="rows for calibration and for test",
                actual=f"{len(data)} rows" + ("" if data.groups is None else f" in {len(set(data.groups.tolist()))} groups"),
                hint="give more data, other shares in [data], or a 'split' array",
            )
    if len(rows["calibration"]) > max_calibration_rows:
        order = sorted(rows["calibration"].tolist(), key=lambda row: order_key(seed, digests[row]))
        rows["calibration"] = np.sort(np.asarray(order[:max_calibration_rows], dtype=np.int64))
    validation, train = (data.take(rows[part]) if len(rows[part]) else None for part in ("validation", "train"))
    return DataParts(data.take(rows["calibration"]), validation, data.take(rows["test"]), origin, train)


def _given_labels(data: Dataset, digests: Sequence[bytes]) -> NDArray[np.str_]:
    labels: NDArray[np.str_] = np.asarray(data.split, dtype=np.str_)
    unknown = sorted(set(labels.tolist()) - set(PARTS))
    if unknown:
        raise UsageError(
            "unknown part in 'split'",
            code="data_split",
            where=data.where,
            expected=" | ".join(PARTS),
            actual=repr(unknown[0])[:60],
            hint="name the part of each row by one of these words, or leave 'split' out",
        )
    _refuse_shared(labels, digests, what="row", where=data.where)
    if data.groups is not None:
        _refuse_shared(labels, data.groups.tolist(), what="group", where=data.where)
    return labels


def _refuse_shared(labels: NDArray[np.str_], keys: Sequence[Hashable], *, what: str, where: str) -> None:
    """A row or group in two parts makes the figures of the report too good (leakage)."""
    first: dict[Hashable, int] = {}
    for row, key in enumerate(keys):
        other = first.setdefault(key, row)
        if labels[other] != labels[row]:
            raise UsageError(
                f"the same {what} is in two parts",
                code="data_leak",
                where=where,
                expected=f"each {what} in one part only",
                actual=f"row {other} in {labels[other]}, row {row} in {labels[row]}",
                hint="remove duplicates, or leave 'split' out: the seeded split keeps equal rows and groups together",
            )


def _seeded_labels(data: Dataset, digests: Sequence[bytes], *, seed: int, shares: tuple[float, float]) -> NDArray[np.str_]:
    units = _units(data, digests)
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(units):
        members.setdefault(unit, []).append(row)
    keys: Mapping[int, bytes] = {unit: order_key(seed, min(digests[row] for row in rows)) for unit, rows in members.items()}
    labels: NDArray[np.str_] = np.full(len(data), "test", dtype="<U11")
    wanted = [("calibration", shares[0] * len(data)), ("validation", shares[1] * len(data))]
    order = sorted(members, key=lambda unit: keys[unit])
    for part, target in wanted:
        taken = 0
        while order and taken < target:
            rows = members[order.pop()]
            labels[rows] = part
            taken += len(rows)
    return labels


def _units(data: Dataset, digests: Sequence[bytes]) -> list[int]:
    """For each row a number that equal rows and rows of one group share (union-find over both)."""
    parent = list(range(len(data)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    keyed: list[Sequence[Any]] = [digests] if data.groups is None else [digests, data.groups.tolist()]
    for keys in keyed:
        first: dict[Any, int] = {}
        for row, key in enumerate(keys):
            low, high = sorted((root(first.setdefault(key, row)), root(row)))
            parent[high] = low
    return [root(row) for row in range(len(data))]


def order_key(seed: int, digest: bytes) -> bytes:
    """What rows are sorted by where the seed decides: depends on a row's content, not on its place."""
    return hashlib.sha256(seed.to_bytes(8, "big") + digest).digest()
