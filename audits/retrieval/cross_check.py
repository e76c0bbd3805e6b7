"""ART beside our own attacks, on the same bytes: shown, never judged.

Two figures for each model: the largest difference between ART's MIFace and ours after a few steps from the common start,
which says that ours is the published attack; and how well the distance to the border that HopSkipJump finds tells members
from held-outs, as an area under the curve over a handful of records, which is too few to decide anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from audits.blackbox.oracle import Oracle
from audits.bridge.graph import BridgeError
from audits.inversion import ascend_probability
from audits.reference.boundary import boundary_distances
from audits.reference.miface import miface_reference
from audits.retrieval.scene import Scene
from audits.whitebox import WhiteBox
from device_client.inference.walker import CheckedModel

_STEPS, _RATE = 10, 0.1
_ITERATIONS, _EVALUATIONS = 2, 100


def cross_check(model: CheckedModel, scene: Scene, *, records: int) -> dict[str, Any]:
    """Both figures as JSON numbers; None where one cannot be had.

    Args:
        model: the bytes.
        scene: records, start and range.
        records: members, and as many held-outs, whose distance to the border is measured.

    Raises:
        MissingExtraError: ART is not installed.
    """
    members, others = _chosen(scene, records)
    with Oracle(model, probe=scene.start) as oracle:
        rows = np.concatenate([members, others])
        found = boundary_distances(
            oracle,
            scene.data.x[rows],
            bounds=scene.bounds,
            iterations=_ITERATIONS,
            evaluations=_EVALUATIONS,
            seed=scene.policy.seed,
        )
        asked = oracle.asked
    inside, outside = found[: len(members)], found[len(members) :]
    return {
        "miface_difference": _miface_difference(model, scene),
        "boundary_auc": _auc(inside[~np.isnan(inside)], outside[~np.isnan(outside)]),
        "boundary_records": len(rows),
        "boundary_queries": asked,
    }


def _miface_difference(model: CheckedModel, scene: Scene) -> float | None:
    """Largest difference as a share of the range; None for a model that the bridge does not know."""
    starts = np.repeat(scene.start[None], scene.classes, axis=0)
    rate = _RATE * scene.bounds.width**2  # ours steps in units of the range, ART in units of the input
    try:
        with WhiteBox(model, records=scene.data.x) as box:
            theirs = miface_reference(box, starts, bounds=scene.bounds, steps=_STEPS, rate=rate)
            ours = ascend_probability(
                lambda x: functional.softmax(box.logits(x), dim=1),
                torch.from_numpy(starts),
                torch.arange(scene.classes),
                steps=_STEPS,
                rate=_RATE,
                bounds=scene.bounds,
            ).numpy()
    except BridgeError:
        return None
    return float(np.abs(ours - theirs).max() / scene.bounds.width)


def _chosen(scene: Scene, records: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng([scene.policy.seed, 51])
    sides = (np.flatnonzero(scene.data.member), np.flatnonzero(~scene.data.member))
    first, second = (np.sort(rng.permutation(side)[:records]) for side in sides)
    return first, second


def _auc(inside: np.ndarray[Any, Any], outside: np.ndarray[Any, Any]) -> float | None:
    """Share of pairs in which the member is farther from the border, ties by half."""
    if len(inside) == 0 or len(outside) == 0:
        return None
    above = (inside[:, None] > outside[None, :]).mean() + 0.5 * (inside[:, None] == outside[None, :]).mean()
    return float(above)
