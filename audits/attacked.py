"""One model attacked: opened, compared with the runtime, inverted, and the original's images tried on it.

Between ``inversion`` (images) and ``run`` (statistics). A model that cannot be opened or translated becomes a ``blocked``
result with the reason, so that one exotic variant does not hide the verdicts on the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.bridge.graph import BridgeError
from audits.bridge.parity import Parity, ParityBounds
from audits.class_scores import told_briefly, why_no_better_than_chance
from audits.data import AuditData, Floats
from audits.inversion import InputRange, Reconstruction, invert
from audits.policy import Policy
from audits.whitebox import WhiteBox
from device_client.errors import FormatError, UsageError
from device_client.inference.walker import CheckedModel

TRANSFER = "transfer:"


@dataclass(frozen=True)
class Attacked:
    """What the attacks gave.

    Attributes:
        own: reconstructions from this model's own bytes.
        transferred: the original's images where this model accepts them, its own elsewhere; empty for the original.
        accepted: for each attack how many classes accept the original's image.
        transfer_confidence: for each attack the mean confidence that this model gives the original's images.
        accuracy_members, accuracy_heldouts: of the shipped bytes.
        strange_labels: why the labels look unlike this model's classes, or None.
        masked: attacks in which the original's images do clearly better than the model's own: its gradients are masked.
    """

    blocked: str | None
    parity: Parity | None = None
    classes: int = 0
    access: tuple[tuple[str, str], ...] = ()
    own: tuple[Reconstruction, ...] = ()
    transferred: tuple[Reconstruction, ...] = ()
    accepted: tuple[int, ...] = ()
    transfer_confidence: tuple[float, ...] = ()
    masked: tuple[str, ...] = ()
    strange_labels: str | None = None
    accuracy_members: float = 0.0
    accuracy_heldouts: float = 0.0

    @property
    def reconstructions(self) -> tuple[Reconstruction, ...]:
        """Everything that is judged."""
        return self.own + self.transferred

    def converged_share(self, *, min_confidence: float) -> float:
        """Share of classes on which at least one own attack reached ``min_confidence``."""
        if not self.own:
            return 0.0
        best = np.max([item.best_confidence() for item in self.own], axis=0)
        return float(np.mean(best >= min_confidence))


def attack(
    model: CheckedModel, data: AuditData, *, start: Floats, bounds: InputRange, policy: Policy, original: Attacked | None = None
) -> Attacked:
    """Attacks one model with the policy's portfolio.

    Args:
        model: the bytes.
        data: for parity rows and accuracy; the attacks themselves see no record.
        start: first starting point of the attacks.
        bounds: input range.
        policy: budgets and bounds.
        original: the attacked original, whose images are tried on this model.
    """
    try:
        with WhiteBox(model, records=data.x) as box:
            return _attack(box, data, start=start, bounds=bounds, policy=policy, original=original)
    except (BridgeError, FormatError) as e:
        return Attacked(blocked=told_briefly(e))
    except UsageError as e:
        if e.code != "input_mismatch":
            raise
        return Attacked(blocked=f"the records do not fit the model: {e}")


def _attack(
    box: WhiteBox, data: AuditData, *, start: Floats, bounds: InputRange, policy: Policy, original: Attacked | None
) -> Attacked:
    probabilities = box.probabilities(data.x)
    classes = probabilities.shape[1]
    if data.classes > classes:
        return Attacked(blocked=f"labels go up to {data.classes - 1} and the model has {classes} classes")
    parity = box.parity(
        _parity_rows(data, bounds, policy),
        bounds=ParityBounds(policy.parity.float_absolute, policy.parity.quanta, policy.parity.quantised_cap),
    )
    own = tuple(invert(box, start=start, classes=classes, bounds=bounds, settings=policy.inversion, seed=policy.seed))
    tried = (
        ()
        if original is None or original.blocked
        else tuple(_transfer(box, mine, theirs, policy) for mine, theirs in zip(own, original.own, strict=True))
    )
    right = probabilities.argmax(axis=1) == data.y
    return Attacked(
        blocked=None,
        parity=parity,
        classes=classes,
        access=_access(box),
        own=own,
        transferred=tuple(item[0] for item in tried),
        accepted=tuple(item[1] for item in tried),
        transfer_confidence=tuple(item[2] for item in tried),
        masked=tuple(mine.attack for mine, item in zip(own, tried, strict=False) if item[2] > float(mine.confidence.mean()) + 0.02),
        strange_labels=why_no_better_than_chance(probabilities.argmax(axis=1)[data.member], data.y[data.member], classes=classes),
        accuracy_members=float(right[data.member].mean()) if data.member.any() else 0.0,
        accuracy_heldouts=float(right[~data.member].mean()) if (~data.member).any() else 0.0,
    )


def _transfer(box: WhiteBox, mine: Reconstruction, theirs: Reconstruction, policy: Policy) -> tuple[Reconstruction, int, float]:
    """The original's image wherever this model accepts it: an attacker could have found it with this file."""
    restarts, classes = mine.confidence.shape
    labels = np.tile(np.arange(classes), restarts)
    flat = theirs.images.reshape(-1, *theirs.images.shape[2:])
    confidence = box.probabilities(flat)[np.arange(len(flat)), labels].reshape(restarts, classes)
    accepted: npt.NDArray[np.bool_] = confidence >= policy.inversion.transfer_confidence
    images = mine.images.copy()
    images[accepted] = theirs.images[accepted]
    kept = np.where(accepted, confidence, mine.confidence)
    return Reconstruction(TRANSFER + mine.attack, images, kept), int(accepted.any(axis=0).sum()), float(confidence.mean())


def _parity_rows(data: AuditData, bounds: InputRange, policy: Policy) -> Floats:
    """Half records, half noise over the whole range: real inputs, and places that only an attack visits."""
    rng = np.random.default_rng([policy.seed, 4])
    half = max(1, policy.parity.rows // 2)
    records = data.x[rng.permutation(len(data.x))[:half]]
    noise = rng.uniform(bounds.low, bounds.high, size=(half, *data.x.shape[1:])).astype(np.float32)
    return np.concatenate([records, noise])


def _access(box: WhiteBox) -> tuple[tuple[str, str], ...]:
    quantised = any(node.op == "QuantizeLinear" for node in box.graph.nodes)
    return (
        ("gradient", "straight_through" if quantised else "exact"),
        ("tap", box.tap.logits),
        ("cut", " ".join(box.tap.cut)),
        ("tail", box.tap.tail.value),
    )
