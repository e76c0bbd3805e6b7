"""Makes the model of a fix, and the trainer of twins that got the same fix.

Between ``fixes`` (what) and ``search`` (how much of it). Records: a fix that trains sees members with their labels, a student
sees the records that were set aside, and nobody sees the held-outs that the audit compares with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from audits.bridge.tap import Tail
from audits.data import AuditData, Bools, Floats, Integers, check_data
from audits.mitigate.accuracy import class_scores
from audits.mitigate.fixes import RETRAIN, Fix, Needs
from audits.mitigate.student import distil
from audits.mitigate.surgery import hide_scores, prune
from audits.mitigate.training import FixTrainer
from audits.trainer import Trainer
from audits.whitebox import WhiteBox
from device_client.bundle.digest import Digest
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel, check_model


@dataclass(frozen=True)
class Records:
    """The records of a search, split once.

    Attributes:
        data: members and held-outs; the held-outs trained nothing.
        aside: records for students, (M, ...), with their classes; None where there are none.
        aside_y: their classes, (M,), which the students never see.
        private: whether ``aside`` was taken from the auditor's held-outs, so that a student's leak of them counts as well.
    """

    data: AuditData
    aside: Floats | None = None
    aside_y: Integers | None = None
    private: bool = True

    def views(self, fix: Fix) -> tuple[AuditData, ...]:
        """Whose membership the audit of this fix must look at: the members, and what a student learned from."""
        if not fix.about.unlabelled or self.aside is None or self.aside_y is None or not self.private:
            return (self.data,)
        kept = ~self.data.member
        return (self.data, _view(self.aside, self.aside_y, self.data.x[kept], self.data.y[kept]))


def set_aside(data: AuditData, *, share: float, minimum: int, seed: int) -> tuple[Records, str | None]:
    """Takes a share of each class's held-outs for students, if enough remain on both sides.

    Args:
        data: of the audit.
        share: of each class's held-outs, in (0, 1).
        minimum: records of a class that the audit needs on each side.
        seed: of the choice.

    Returns:
        the split, and why there is none for students, or None.
    """
    rng = np.random.default_rng([seed, 13])
    picked = np.zeros(len(data.y), dtype=np.bool_)
    for label in range(data.classes):
        rows = np.flatnonzero(~data.member & (data.y == label))
        count = int(share * len(rows))
        if min(count, len(rows) - count) < minimum:
            return Records(data), f"class {label} has {len(rows)} held-outs: too few to set some aside for a student"
        picked[rng.permutation(rows)[:count]] = True
    kept = ~picked
    rest = _build(data.x[kept], data.y[kept], data.member[kept])
    return Records(rest, data.x[picked], data.y[picked], private=True), None


@dataclass
class Workshop:
    """Makes candidates.

    Attributes:
        original: the model whose audit failed.
        records: see ``Records``.
        trainer: the auditor's entry point, or None.
    """

    original: CheckedModel
    records: Records
    trainer: FixTrainer | None
    _usual: dict[tuple[str, int], Digest] = field(default_factory=dict, repr=False)  # kind and seed to what no fix gives

    def make(self, fix: Fix, *, seed: int) -> bytes:
        """The candidate of a fix.

        Args:
            fix: from ``fixes.offer_fixes``.
            seed: of the training.

        Raises:
            UsageError: the entry point failed (``entry_point``), or ignored the fix (``fix_ignored``).
        """
        data = self.records.data
        x, y = data.x[data.member], data.y[data.member]
        model = self._build(fix, x, y, self.records.aside, seed=seed, base=lambda: self.original.data)
        if fix.training and Digest.of(model) == self._without(fix, x, y, seed=seed):
            raise UsageError(
                "the training ignored the fix",
                code="fix_ignored",
                where=fix.label,
                actual="the same bytes as without it",
                hint="use the key in `train`, or raise NotImplementedError for it",
            )
        return model

    def twins(self, fix: Fix, *, exposed: int = 0) -> Trainer | None:
        """A trainer that applies the fix, for shadow models and planted twins.

        Args:
            fix: as in ``make``.
            exposed: index of the view (``Records.views``) whose membership the twins are about: for 1, the records given to
                the trainer are what the student learns from, and the teacher stays the original.
        """
        return None if self.trainer is None else _Twins(self, fix, exposed)

    def _without(self, fix: Fix, x: Floats, y: Integers, *, seed: int) -> Digest:
        """Of the model that this seed gives with nothing changed."""
        usual = Fix("distil_own" if fix.about.unlabelled else RETRAIN, 0.0)
        key = (usual.kind, seed)
        if key not in self._usual:
            made = self._build(usual, x, y, self.records.aside, seed=seed, base=lambda: self.original.data)
            self._usual[key] = Digest.of(made)
        return self._usual[key]

    def _trained(self, x: Floats, y: Integers, *, seed: int, fix: Fix | None = None) -> bytes:
        if self.trainer is None:
            raise ValueError("no training entry point")
        return self.trainer.train(x, y, seed=seed, fix={} if fix is None else fix.training)

    def _build(self, fix: Fix, x: Floats, y: Integers, aside: Floats | None, *, seed: int, base: Callable[[], bytes]) -> bytes:
        """One model; ``base`` gives what the fix is applied to where it is not a training of its own."""
        if not fix.about.unlabelled and fix.about.needs in {Needs.TRAINER, Needs.FIX}:
            return self._trained(x, y, seed=seed, fix=fix)
        if fix.about.unlabelled:
            if aside is None:
                raise ValueError("no records for a student")
            teacher = check_model(base(), where=f"teacher of {fix.label}")
            if fix.kind == "distil":
                return distil(teacher, aside, width=int(fix.strength), seed=seed)
            return self._trained(aside, class_scores(teacher, aside).argmax(axis=1).astype(np.int64), seed=seed, fix=fix)
        if fix.kind == "prune":
            return prune(base(), share=fix.strength)
        if fix.about.needs is Needs.SEAL:
            return hide_scores(base(), kind=fix.kind, strength=fix.strength, logits=self._gives_logits())
        return base()

    def _gives_logits(self) -> bool:
        with WhiteBox(self.original, records=self.records.data.x) as box:
            return box.tap.tail is Tail.NONE


@dataclass(frozen=True)
class _Twins:
    """``Trainer`` with a fix built in."""

    workshop: Workshop
    fix: Fix
    exposed: int

    def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
        """See ``audits.trainer.Trainer``."""
        shop = self.workshop
        if self.exposed:
            return shop._build(self.fix, x, y, x, seed=seed, base=lambda: shop.original.data)
        return shop._build(self.fix, x, y, shop.records.aside, seed=seed, base=lambda: shop._trained(x, y, seed=seed))


def _view(inside: Floats, inside_y: Integers, outside: Floats, outside_y: Integers) -> AuditData:
    member = np.arange(len(inside) + len(outside)) < len(inside)
    return _build(np.concatenate([inside, outside]), np.concatenate([inside_y, outside_y]), member)


def _build(x: Floats, y: Integers, member: Bools) -> AuditData:
    return check_data({"x": x, "y": y, "member": member}, where="the split for the search")
