"""How the records and the model under audit fit together: checked before anything is attacked, and what follows from it.

Pure. Models are known here by what their files declare; nothing is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audits.data import AuditData
from audits.instance_gap import Pools, draw_pools
from audits.policy import Policy
from audits.targets import Subject
from device_client.errors import UsageError


@dataclass(frozen=True)
class InputRange:
    """The values that the model's input may take; attacks never leave it."""

    low: float
    high: float
    source: str  # "contract" or "data"

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low


def check_fit(original: Subject, data: AuditData) -> None:
    """What can be known before anything is attacked: the records are this model's, and both sides have some.

    Raises:
        UsageError: ``audit_data``.
    """
    shapes = [model.shape for model in (original.model.inputs[0], original.model.outputs[0])] if original.model.outputs else []
    wanted = shapes[0][1:] if shapes and shapes[0] else ()
    given = data.x.shape[1:]
    if wanted and (
        len(wanted) != len(given) or any(isinstance(w, int) and w not in {g, 0} for w, g in zip(wanted, given, strict=True))
    ):
        raise UsageError(
            "the records do not fit the model",
            code="audit_data",
            where="x",
            expected=f"(records, {_joined(wanted)})",
            actual=data.x.shape,
        )
    classes = _declared(shapes[1]) if len(shapes) > 1 else None
    if classes is not None and data.classes > classes:
        raise UsageError(
            "a label is beyond the model's classes",
            code="audit_data",
            where="y",
            expected=f"below {classes}",
            actual=data.classes - 1,
        )
    members = int(data.member.sum())
    if members in {0, len(data.member)}:
        raise UsageError(
            "there is nothing to compare",
            code="audit_data",
            where="member",
            expected="records that trained the model and records that did not",
            actual=f"{members} of {len(data.member)} are members",
        )


def input_range(original: Subject, data: AuditData) -> InputRange:
    """From the contract; where that says nothing, what the records span (members and held-outs alike)."""
    if original.input_range is not None:
        low, high = original.input_range
        found = InputRange(float(low), float(high), "contract")
    else:
        found = InputRange(float(data.x.min()), float(data.x.max()), "data")
    if not found.width > 0:
        raise UsageError(
            "the input range is empty", code="audit_data", expected="low below high", actual=f"{found.low}..{found.high}"
        )
    return found


def class_count(original: Subject, data: AuditData) -> int:
    """The model's class count where its file declares it, else what the labels span."""
    declared = _declared(original.model.outputs[0].shape) if original.model.outputs else None
    return declared if declared is not None and declared >= data.classes else data.classes


def _declared(shape: tuple[int | str, ...] | None) -> int | None:
    """Classes of an output (N, C) or (N, C, 1, ...), if its file says how many."""
    found = shape[1] if shape is not None and len(shape) > 1 else None
    return found if isinstance(found, int) and found > 1 else None


def balanced_pools(data: AuditData, classes: int, policy: Policy) -> Pools:
    """Equally many members and held-outs of each class, by the policy's seed."""
    decision = policy.decision
    return draw_pools(
        data, classes=classes, minimum=decision.min_records_per_class, maximum=decision.max_records_per_class, seed=policy.seed
    )


def _joined(shape: Sequence[object]) -> str:
    return ", ".join(str(size) for size in shape)
