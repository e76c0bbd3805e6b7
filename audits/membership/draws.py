"""Who is judged, which records train each shadow, and how records are named: every random choice of a membership audit.

Shares of members are made equal in all classes, so that an attack cannot tell the sides by what class a record has. Masks of
shadows are independent of each other and of the target: with complementary pairs a record's inside and outside counts would
depend on each other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.data import AuditData, Integers

Bools = npt.NDArray[np.bool_]
_DRAW, _MASK = 40, 41


@dataclass(frozen=True)
class Judged:
    """The records that are judged.

    Attributes:
        rows: indices into the data, growing, (E,).
        member: (E,).
        thin: classes with too few of one side: (class, members, held-outs). Their records are not judged.
    """

    rows: Integers
    member: Bools
    thin: tuple[tuple[int, int, int], ...]

    @property
    def members(self) -> int:
        """How many members are judged."""
        return int(self.member.sum())

    @property
    def heldouts(self) -> int:
        """How many held-outs are judged."""
        return len(self.member) - self.members


def draw_judged(data: AuditData, *, minimum: int, maximum: int, seed: int) -> Judged:
    """The largest draw with the same ratio of members to held-outs in every class, to within one record.

    Args:
        data: records with membership.
        minimum: members and held-outs that a class needs.
        maximum: records in all, to bound the cost.
        seed: of the policy.
    """
    rng = np.random.default_rng([seed, _DRAW])
    counts = {
        int(label): (int((data.member & (data.y == label)).sum()), int((~data.member & (data.y == label)).sum()))
        for label in range(data.classes)
    }
    thin = tuple((label, inside, outside) for label, (inside, outside) in counts.items() if min(inside, outside) < minimum)
    kept = {label: pair for label, pair in counts.items() if min(pair) >= minimum}
    total = (sum(a for a, _ in kept.values()), sum(b for _, b in kept.values()))
    part = min(1.0, maximum / max(1, sum(total)))
    rows: list[npt.NDArray[np.int64]] = []
    for label, (inside, outside) in kept.items():
        wanted = (min(inside, round(outside * total[0] / total[1])), min(outside, round(inside * total[1] / total[0])))
        for side, count in zip((True, False), wanted, strict=True):
            of_side = np.flatnonzero((data.y == label) & (data.member == side))
            rows.append(rng.permutation(of_side)[: max(1, round(part * count))])
    picked = np.sort(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64)
    return Judged(picked, data.member[picked], thin)


def shadow_masks(y: Integers, *, count: int, share: float, seed: int) -> Bools:
    """Independent random shares of the records, the same number of each class in every mask, (count, N)."""
    masks = np.zeros((count, len(y)), dtype=np.bool_)
    for index in range(count):
        rng = np.random.default_rng([seed, _MASK, index])
        for label in np.unique(y):
            rows = np.flatnonzero(y == label)
            masks[index, rng.permutation(rows)[: max(1, round(len(rows) * share))]] = True
    return masks


def permute_within_classes(member: Bools, y: Integers, *, rng: np.random.Generator) -> Bools:
    """A membership that has nothing to do with the training, with the same counts in each class."""
    result = member.copy()
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        result[rows] = rng.permutation(member[rows])
    return result


def count_repeats(data: AuditData) -> int:
    """Records that another row repeats bit for bit, on the same side: their shadows' two sides are not what they seem."""
    rows = [row.tobytes() for row in data.x.reshape(len(data.x), -1)]
    return len(rows) - len(set(rows))


def record_names(data: AuditData, rows: Integers, *, seed: int) -> list[str]:
    """Names of records that only somebody with all the data can tie to records.

    SHA-256 over a salt and the record's bytes. The salt is SHA-256 over the whole data in an order that no stored digest has: the
    same for every run on this data, in no file, and not to be guessed by who has a single record.
    """
    state = hashlib.sha256(f"sealift record names {seed};".encode())
    for array in (data.member, data.y, data.x):
        state.update(array.tobytes())
    salt = state.digest()
    return [hashlib.sha256(salt + data.x[row].tobytes() + data.y[row].tobytes()).hexdigest()[:24] for row in rows]


def training_seed(seed: int, index: int) -> int:
    """Seeds of trainings: distinct within a run, and within what every generator takes."""
    return (seed * 7919 + index) % 2**31
