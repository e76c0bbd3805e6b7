"""Identity retrieval: does the image of class c look most like class c, by records that the model never saw?

The gallery holds the average of each class over its held-outs. Images and gallery are each centred on their own mean over
classes, so that what all share does not vote; then the largest correlation wins. No network judges the images, so
adversarial noise retrieves nothing.

The gate is binomial: without any leak each class hits with chance 1 / C. Where the policy calls class appearance public, the
count is reported and not judged: a classifier of faces has to know faces. Retrieval says nothing about memberships.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.data import AuditData, Floats
from audits.statistics import binomial_limit, clopper_pearson

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gallery:
    """Directions of the class averages, (C, D): centred over classes, then each on its own mean, of length 1."""

    directions: Doubles

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.directions)


@dataclass(frozen=True)
class Retrieval:
    """What one set of images retrieved.

    Attributes:
        nearest: (C,), the gallery's class that is most like the image of class c.
        retrieved: how many are their own.
        p_value: of at most ``tolerated`` (or chance), one-sided, exact.
        interval: Clopper-Pearson, of the share.
    """

    nearest: npt.NDArray[np.int64]
    retrieved: int
    p_value: float
    interval: tuple[float, float]


def make_gallery(data: AuditData, *, classes: int) -> Gallery | None:
    """Class averages over held-outs; None where a class has none."""
    flat = data.x.reshape(len(data.x), -1)
    rows = [np.flatnonzero((data.y == label) & ~data.member) for label in range(classes)]
    if any(len(found) == 0 for found in rows):
        return None
    return Gallery(_directions(np.stack([flat[found].mean(axis=0, dtype=np.float64) for found in rows])))


def retrieve(images: Floats, gallery: Gallery, *, tolerated: float = 0.0, confidence: float = 0.95) -> Retrieval:
    """Compares the images (C, ...) with the gallery.

    Args:
        images: one for each class, in class order.
        gallery: of the same classes.
        tolerated: a share of classes that may be retrieved; chance where that is larger.
        confidence: of the interval.
    """
    table = _directions(images.reshape(len(images), -1)) @ gallery.directions.T
    nearest = table.argmax(axis=1)
    # a flat image has no direction and no nearest class
    nearest[np.abs(table).max(axis=1) < 1e-12] = -1
    count = int((nearest == np.arange(len(nearest))).sum())
    return Retrieval(
        nearest,
        count,
        hits_p_value(count, gallery.classes, tolerated=tolerated),
        clopper_pearson(count, gallery.classes, confidence=confidence),
    )


def hits_p_value(hits: int, classes: int, *, tolerated: float = 0.0) -> float:
    """P(at least ``hits`` of ``classes``) where each hits with chance ``max(tolerated, 1 / classes)``, exact binomial."""
    from scipy import stats

    return float(min(1.0, stats.binom.sf(hits - 1, classes, max(tolerated, 1.0 / classes))))


def permuted_alarms(nearest: npt.NDArray[np.int64], *, relabellings: int, alpha: float, seed: int) -> tuple[int, int, float]:
    """Hits on identities that are falsely claimed, under random permutations of who is who.

    Returns:
        Alarms at ``alpha``; how many chance explains (99.9 %); mean hits, which should be near 1.
    """
    classes = len(nearest)
    rng = np.random.default_rng([seed, 21])
    orders = rng.permuted(np.tile(np.arange(classes), (relabellings, 1)), axis=1)
    hits = (orders == nearest[None, :]).sum(axis=1)
    limits = np.array([hits_p_value(count, classes) <= alpha for count in range(classes + 1)])
    return int(limits[hits].sum()), binomial_limit(relabellings, rate=alpha), float(hits.mean())


def _directions(rows: npt.NDArray[np.floating]) -> Doubles:
    values = rows.astype(np.float64)
    values = values - values.mean(axis=0)
    values = values - values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: Doubles = np.divide(values, length, out=np.zeros_like(values), where=length > 1e-9)
    return scaled
