"""One model attacked from outside: by its scores, and by its winning class alone.

The images have the same form as those of the white-box attacks, so that one table of statistics judges all. A model that
the runtime cannot open, or whose output is no class scores, gives a reason and no images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.blackbox.label_only import invert_by_labels
from audits.blackbox.nes import BlackBoxImages, invert_by_scores
from audits.blackbox.oracle import Oracle
from audits.bridge.graph import BridgeError
from audits.class_scores import told_briefly
from audits.inversion import Reconstruction
from audits.retrieval.scene import Scene
from audits.retrieval.settings import RetrievalSettings
from device_client.errors import FormatError, UsageError
from device_client.inference.walker import CheckedModel

BLACK_BOX, LABEL_ONLY = "black_box", "label_only"
OUTSIDE = (BLACK_BOX, LABEL_ONLY)


@dataclass(frozen=True)
class Sight:
    """Images of one attack from outside, and what they cost.

    Attributes:
        images: in the form of the white-box attacks.
        queries: (C,), answers used for each class.
        asked: answers in all; less than the sum of ``queries`` where classes shared some.
        stop: confidence at which a class counts as converged.
    """

    images: Reconstruction
    queries: npt.NDArray[np.int64]
    asked: int
    stop: float

    @property
    def converged_share(self) -> float:
        """Share of the classes with an image that the model is sure enough about."""
        return float(np.mean(self.images.best_confidence() >= self.stop))


@dataclass(frozen=True)
class Seen:
    """All attacks from outside on one model, by name; ``blocked`` says why there are none."""

    blocked: str | None
    sights: dict[str, Sight]
    batched: bool = False


def look(
    model: CheckedModel, scene: Scene, settings: RetrievalSettings, *, attacks: Sequence[str], original: Seen | None = None
) -> Seen:
    """Attacks one model from outside.

    Args:
        model: the bytes.
        scene: start, range and seed; the attacks see no record.
        settings: budgets.
        attacks: some of ``OUTSIDE``.
        original: what the uncompressed model gave; helps classes that do not get there alone.
    """
    try:
        with Oracle(model, probe=scene.start) as oracle:
            if oracle.classes != scene.classes:
                return Seen(f"the model has {oracle.classes} classes and the original {scene.classes}", {})
            sights = {}
            for name in attacks:
                before = oracle.asked
                theirs = original.sights.get(name) if original is not None else None
                found = _attack(oracle, name, scene, settings, theirs)
                sights[name] = _sight(name, found, oracle.asked - before, scene, settings)
            return Seen(None, sights, oracle.batched)
    except (BridgeError, FormatError) as e:
        return Seen(told_briefly(e), {})
    except UsageError as e:
        if e.code != "input_mismatch":
            raise
        return Seen(f"the records do not fit the model: {e}", {})


def _attack(oracle: Oracle, name: str, scene: Scene, settings: RetrievalSettings, theirs: Sight | None) -> BlackBoxImages:
    given = theirs.images.best_images() if theirs is not None else None
    seed = scene.policy.seed
    if name == BLACK_BOX:
        return invert_by_scores(oracle, start=scene.start, bounds=scene.bounds, settings=settings.black_box, seed=seed, given=given)
    return invert_by_labels(oracle, start=scene.start, bounds=scene.bounds, settings=settings.label_only, seed=seed, given=given)


def _sight(name: str, found: BlackBoxImages, asked: int, scene: Scene, settings: RetrievalSettings) -> Sight:
    stop = min(scene.policy.inversion.min_confidence, settings.black_box_stop) if name == BLACK_BOX else 1.0
    return Sight(Reconstruction(name, found.images, found.confidence), found.queries, asked, stop)
