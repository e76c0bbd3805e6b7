"""The judged quantity: are reconstructions closer to the records that were trained on than to others of the same class?

For each class equally many members and held-outs are drawn (seeded). No statistic knows more about membership than the
labels it is given, so relabelling members and held-outs within each class gives its exact null distribution, provided
that the held-outs are a random sample like the members. Three statistics, each aimed at another leak:

- ``mean``: centred correlation to members minus to held-outs, averaged over records, classes and restarts. A broad leak.
- ``nearest``: the same for the single most similar record, after everything that class averages explain is taken out of
  records and reconstruction alike (the pooled average and the difference of the two sides' averages). A memorised record.
- ``worst_class``: the largest standardised ``mean`` of one class. A leak that the average over classes hides.

Class averages are the task: a model that shows nothing else does not move ``nearest``, and it moves ``mean`` by an amount
that falls with the number of members behind the average (measured in ``docs/audit-method.md``). How much a
reconstruction looks like its class is shown and never judged.

Cost: permutations times records for each image. Determinism: ``seed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.data import AuditData, Floats
from audits.statistics import percentile_interval

Doubles = npt.NDArray[np.float64]
STATISTICS = ("mean", "nearest", "worst_class")
_CHUNK = 500  # relabellings at a time: what fits a cache is three times as fast
_FAR = np.float32(-1e9)  # below every score, however it is projected


@dataclass(frozen=True)
class ClassPool:
    """Equally many members and held-outs of one class.

    Attributes:
        members: row indices into the data, (n,).
        heldouts: row indices, (n,).
        directions: (2n, D), records minus the common centre and their own mean, of length 1; members first.
        residuals: (2n, D), records minus their class average, without what ``explained`` spans.
        explained: (D, k), orthonormal: class average, brightness and centre.
    """

    members: npt.NDArray[np.int64]
    heldouts: npt.NDArray[np.int64]
    directions: Doubles
    residuals: Doubles
    explained: Doubles

    @property
    def size(self) -> int:
        """Members, and as many held-outs."""
        return len(self.members)


@dataclass(frozen=True)
class Pools:
    """The drawn records of all classes.

    Attributes:
        classes: one pool for each class, in class order.
        centre: (D,), mean of all drawn records; knows nothing about membership.
        thin: classes with fewer records than the policy asks for, with both counts.
    """

    classes: tuple[ClassPool, ...]
    centre: Doubles
    thin: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Likeness:
    """How similar the images of one reconstruction are to the records of their class; entries by class.

    Attributes:
        plain: (2n,), centred correlation, mean over restarts; members first.
        residual: (R, 2n), inner products of the residuals of image and record, for each restart.
    """

    plain: tuple[Doubles, ...]
    residual: tuple[Doubles, ...]


@dataclass(frozen=True)
class GapTable:
    """Statistics of K reconstructions under the true labels and under relabellings.

    Attributes:
        values: (K, 3, 1 + permutations + fresh); column 0 has the true labels.
        reference: columns of the null distribution, the true one included.
        by_class: (K, C), mean gap of each class under the true labels.
    """

    values: Doubles
    reference: int
    by_class: Doubles


def draw_pools(data: AuditData, *, classes: int, minimum: int, maximum: int, seed: int) -> Pools:
    """Draws equal numbers within each class; every record of the smaller side is used up to ``maximum``."""
    chosen = []
    thin = []
    for label in range(classes):
        rng = np.random.default_rng([seed, label])
        inside = np.flatnonzero((data.y == label) & data.member)
        outside = np.flatnonzero((data.y == label) & ~data.member)
        n = min(len(inside), len(outside), maximum)
        if n < minimum:
            thin.append((label, len(inside), len(outside)))
        chosen.append((np.sort(rng.permutation(inside)[:n]), np.sort(rng.permutation(outside)[:n])))
    everything = np.concatenate([np.concatenate(pair) for pair in chosen])
    flat = data.x.reshape(len(data.x), -1)
    centre = flat[everything].mean(axis=0, dtype=np.float64) if len(everything) else np.zeros(flat.shape[1])
    return Pools(tuple(_pool(flat, inside, outside, centre) for inside, outside in chosen), centre, tuple(thin))


def likeness(images: Floats, pools: Pools) -> Likeness:
    """Compares ``images``, (R, C, ...), with the records of their classes."""
    flat = images.reshape(images.shape[0], images.shape[1], -1).astype(np.float64)
    plain, residual = [], []
    for label, pool in enumerate(pools.classes):
        rows = flat[:, label]
        plain.append((pool.directions @ _directions(rows, pools.centre).T).mean(axis=1))
        rest = _unit(_without(rows - pools.centre, pool.explained))
        residual.append(rest @ pool.residuals.T)
    return Likeness(tuple(plain), tuple(residual))


def gap_table(items: Sequence[Likeness], pools: Pools, *, permutations: int, fresh: int, seed: int) -> GapTable:
    """Evaluates the statistics of K reconstructions under the same relabellings.

    Args:
        items: one entry for each reconstruction.
        pools: the records they were compared with.
        permutations: relabellings that make the null distribution.
        fresh: further relabellings from another seed, which the null controls judge against it.
        seed: of both.
    """
    count, columns, reference = len(items), 1 + permutations + fresh, 1 + permutations
    mean, nearest = np.zeros((count, columns)), np.zeros((count, columns))
    worst = np.full((count, columns), -np.inf)
    by_class = np.zeros((count, len(pools.classes)))
    for label, pool in enumerate(pools.classes):
        labels = _relabellings(2 * pool.size, permutations=permutations, fresh=fresh, seed=[seed, label])
        gaps = _mean_gaps(np.stack([item.plain[label] for item in items]), labels)
        mean += gaps
        nearest += _nearest_gaps([item.residual[label] for item in items], pool, labels)
        null = gaps[:, :reference]
        spread = null.std(axis=1, keepdims=True)
        # an image without contrast has no spread and no gap
        standard = np.divide(gaps - null.mean(axis=1, keepdims=True), spread, out=np.zeros_like(gaps), where=spread > 1e-12)
        worst = np.maximum(worst, standard)
        by_class[:, label] = gaps[:, 0]
    values = np.stack([mean / len(pools.classes), nearest / len(pools.classes), worst], axis=1)
    # rounding errors would break ties between equal statistics, and then ties would count for the model
    return GapTable(np.round(values, 9), reference, by_class)


def bootstrap_gaps(items: Sequence[Likeness], *, resamples: int, seed: int) -> Doubles:
    """Bootstrap samples of the mean gap, (K, resamples): classes are resampled, and records within each class.

    All reconstructions share the resamples, so the difference of two rows is a paired delta. With few classes the
    percentile interval is somewhat narrow; it is shown with every gap and decides nothing but the delta's warning.
    """
    rng = np.random.default_rng([seed, 1])
    classes = len(items[0].plain)
    boots = np.empty((len(items), resamples, classes))
    for label in range(classes):
        sims = np.stack([item.plain[label] for item in items])
        n = sims.shape[1] // 2
        inside = rng.integers(0, n, size=(resamples, n))
        outside = rng.integers(n, 2 * n, size=(resamples, n))
        for row, out in zip(sims, boots, strict=True):
            out[:, label] = row[inside].mean(axis=1) - row[outside].mean(axis=1)
    picked = rng.integers(0, classes, size=(resamples, classes))
    result: Doubles = np.take_along_axis(boots, picked[None, :, :], axis=2).mean(axis=2)
    return result


def gap_interval(samples: Doubles, *, confidence: float) -> tuple[float, float]:
    """The interval of one row of ``bootstrap_gaps``, or of the difference of two."""
    return percentile_interval(samples, confidence=confidence)


def class_likeness(images: Floats, data: AuditData, pools: Pools) -> tuple[Doubles, int]:
    """Correlation of image c, (C, ...), to its class mean, and how many are nearest to their own: shown, never judged."""
    flat = data.x.reshape(len(data.x), -1)
    means = np.stack([flat[np.concatenate([pool.members, pool.heldouts])].mean(axis=0) for pool in pools.classes])
    table = _directions(images.reshape(len(images), -1), pools.centre) @ _directions(means, pools.centre).T
    return np.diagonal(table).copy(), int((table.argmax(axis=1) == np.arange(len(table))).sum())


def _pool(flat: Floats, inside: npt.NDArray[np.int64], outside: npt.NDArray[np.int64], centre: Doubles) -> ClassPool:
    rows = flat[np.concatenate([inside, outside])].astype(np.float64)
    average = rows.mean(axis=0) if len(rows) else centre
    explained = _orthonormal(np.stack([average - centre, np.ones_like(centre), centre], axis=1))
    return ClassPool(inside, outside, _directions(rows, centre), _without(rows - average, explained), explained)


def _directions(rows: npt.NDArray[np.floating], centre: Doubles) -> Doubles:
    """Rows minus the centre, minus their own mean, scaled to length 1; a row without contrast becomes zero."""
    values = rows.astype(np.float64) - centre
    return _unit(values - values.mean(axis=1, keepdims=True))


def _unit(rows: Doubles) -> Doubles:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Doubles = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-9)
    return scaled


def _without(rows: Doubles, basis: Doubles) -> Doubles:
    result: Doubles = rows - (rows @ basis) @ basis.T
    return result


def _orthonormal(columns: Doubles) -> Doubles:
    """A basis of what the columns span; dependent and vanishing ones drop out."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    result: Doubles = left[:, sizes > 1e-9 * max(1.0, float(sizes.max(initial=0.0)))]
    return result


def _relabellings(records: int, *, permutations: int, fresh: int, seed: list[int]) -> npt.NDArray[np.bool_]:
    """(records, 1 + permutations + fresh): who counts as a member; the first column is the truth."""
    truth = np.zeros(records, dtype=np.bool_)
    truth[: records // 2] = True
    null = np.random.default_rng([*seed, 0]).permuted(np.tile(truth, (permutations, 1)), axis=1)
    control = np.random.default_rng([*seed, 1]).permuted(np.tile(truth, (fresh, 1)), axis=1)
    return np.ascontiguousarray(np.concatenate([truth[None, :], null, control]).T)


def _mean_gaps(sims: Doubles, labels: npt.NDArray[np.bool_]) -> Doubles:
    """(K, columns): mean over members minus mean over held-outs."""
    result: Doubles = (2.0 * (sims @ labels.astype(np.float64)) - sims.sum(axis=1, keepdims=True)) * (2.0 / len(labels))
    return result


def _nearest_gaps(items: Sequence[Doubles], pool: ClassPool, labels: npt.NDArray[np.bool_]) -> Doubles:
    """(K, columns): largest member likeness minus largest held-out likeness, mean over restarts.

    Under each labelling the difference d of the two sides' averages is taken out of the image, and each side's own
    average out of its records: u_i = (r - (r.d) d / d.d) . x_i / |x_i|, minus the mean of u over the record's side. All of
    it follows from inner products of records, so no relabelling touches the images again.
    """
    gram = pool.residuals @ pool.residuals.T
    length = np.sqrt(np.maximum(np.diagonal(gram), 1e-18))
    result = np.empty((len(items), labels.shape[1]))
    for begin in range(0, labels.shape[1], _CHUNK):
        inside = labels[:, begin : begin + _CHUNK]
        weights = np.where(inside, 1.0, -1.0) / pool.size
        towards = gram @ weights  # x_i . d
        square = np.maximum((weights * towards).sum(axis=0), 1e-18)  # d . d
        along = towards / length[:, None] / square
        share = inside / pool.size
        sides = _Sides(
            along=along.astype(np.float32),
            hide_members=np.where(inside, _FAR, np.float32(0.0)),
            hide_others=np.where(inside, np.float32(0.0), _FAR),
            share=share,
            along_members=(along * share).sum(axis=0),
            along_all=along.sum(axis=0) / pool.size,
        )
        for row, item in enumerate(items):
            gaps = [_top_gap(products / length, products @ weights, sides) for products in item]
            result[row, begin : begin + _CHUNK] = np.mean(gaps, axis=0)
    return result


@dataclass(frozen=True)
class _Sides:
    """What the images of one class share under a block of labellings; (2n, columns) or (columns,)."""

    along: Floats
    hide_members: Floats  # adding is many times faster than np.where
    hide_others: Floats
    share: Doubles
    along_members: Doubles
    along_all: Doubles


def _top_gap(towards: Doubles, across: Doubles, sides: _Sides) -> Doubles:
    """Highest score above the side's mean score, members minus held-outs, (columns,).

    Scores are ``towards - across * along``. Their means follow from sums, so that only the maxima touch every score.
    """
    scores = towards.astype(np.float32)[:, None] - across.astype(np.float32) * sides.along
    member_top = (scores + sides.hide_others).max(axis=0)
    other_top = (scores + sides.hide_members).max(axis=0)
    member_mean = towards @ sides.share - across * sides.along_members
    other_mean = 2.0 * towards.mean() - across * sides.along_all - member_mean
    gap: Doubles = (member_top - member_mean) - (other_top - other_mean)
    return gap
