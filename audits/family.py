"""What every family of tests gets: the models, the records, the policy, and the seams to compression and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from audits.compressor import Compressor
from audits.data import AuditData
from audits.policy import Policy
from audits.targets import Subject
from audits.trainer import Trainer

if TYPE_CHECKING:
    from audits.attacked import Attacked  # which needs torch, and a run of other families does not

Report = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """The inputs of a run.

    Attributes:
        original: the uncompressed model.
        variants: what the bundle ships.
        data: records with membership.
        policy: everything that decides.
        compressor: makes of any model what the bundle's recipe makes; None where no recipe was given.
        trainer: trains like the audited model was trained; None where no entry point was given.
        report: called with one line for each step.
        attacked: white-box results by subject id, as far as a family has made them: attacks are the dear part of a run.
    """

    original: Subject
    variants: tuple[Subject, ...]
    data: AuditData
    policy: Policy
    compressor: Compressor | None
    trainer: Trainer | None
    report: Report
    attacked: dict[str, Attacked] = field(default_factory=dict, compare=False)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The original first."""
        return (self.original, *self.variants)
