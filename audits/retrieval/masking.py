"""Is the gradient masked? What the naive output, the tapped logits and the original's images reach on one file.

A quantised softmax has few levels and mostly exact zeros. Whoever climbs the file's own output then finds little, and an
audit that reports that figure invents a privacy gain. So the audit climbs the logits (``bridge.tap``) and tries the
original's images too; this module puts the three figures side by side. Figures are confidences, so they say how well
an attack works and nothing about a leak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from audits.attacked import Attacked
from audits.bridge.graph import BridgeError
from audits.inversion import ascend_probability
from audits.retrieval.scene import Scene
from audits.whitebox import WhiteBox
from device_client.inference.walker import CheckedModel

TOLERATED = 0.02  # the white-box figure may be this far below the transfer figure


@dataclass(frozen=True)
class Masking:
    """Mean over classes of the best confidence.

    Attributes:
        own: of the portfolio on this file.
        naive: of plain steps on the file's own output; None where no quantised tail was cut.
        transfer: of the original's images on this file; None for the original.
    """

    own: float
    naive: float | None
    transfer: float | None

    @property
    def doubt(self) -> str | None:
        """Why this file's own attacks are not to be trusted, or None."""
        if self.transfer is None or self.transfer <= self.own + TOLERATED:
            return None
        return f"gradient masking: the original's images reach {self.transfer:.3f} on this model, its own {self.own:.3f}"


def measure_masking(model: CheckedModel, attacked: Attacked, scene: Scene, *, original: Attacked | None) -> Masking:
    """The three figures of one attacked model."""
    own = float(np.max([item.best_confidence() for item in attacked.own], axis=0).mean())
    try:
        with WhiteBox(model, records=scene.data.x) as box:
            naive = _naive(box, scene) if "QuantizeLinear" in box.tap.cut else None
            transfer = None if original is None or original.blocked else _transfer(box, original)
    except BridgeError:
        naive, transfer = None, None
    return Masking(own, naive, transfer)


def _naive(box: WhiteBox, scene: Scene) -> float:
    """Plain steps on what the file puts out, rounding included, from the common start."""
    labels = torch.arange(scene.classes)
    starts = torch.from_numpy(np.repeat(scene.start[None], scene.classes, axis=0))
    settings = scene.policy.inversion
    images = ascend_probability(
        box.scores, starts, labels, steps=settings.probability_steps, rate=settings.probability_rate, bounds=scene.bounds
    ).numpy()
    inside = np.clip(images, scene.bounds.low, scene.bounds.high).astype(np.float32)
    return float(np.diagonal(box.probabilities(inside)).mean())


def _transfer(box: WhiteBox, original: Attacked) -> float:
    best = [np.diagonal(box.probabilities(item.best_images())) for item in original.own]
    return float(np.max(best, axis=0).mean())
