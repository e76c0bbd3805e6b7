"""What one or several teachers say about the rows that a student trains on.

Computed once, before training: rows are not changed from epoch to epoch, so a teacher's answer does not change either.
Several teachers are averaged in probabilities (class scores) or values (everything else).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packager.train.objective import Head, SoftLabels, as_logits, find_head
from packager.train.rows import Rows, forward_all

_TINY = 1e-12


def teach(teachers: Sequence[Any], rows: Rows, *, task: str, weight: float, temperature: float) -> SoftLabels:
    """Soft labels of ``teachers`` on ``rows``.

    Args:
        teachers: torch modules of equal outputs, at least one.
        rows: what the student trains on.
        task: of the recipe, decided.
        weight: of the teachers against the labels, in [0, 1].
        temperature: of the student's loss, above zero.
    """
    heads = [find_head(teacher, rows, task=task) for teacher in teachers]
    answers = [forward_all(teacher, rows) for teacher in teachers]
    first = _average([as_logits(answer[0], head) for answer, head in zip(answers, heads, strict=True)], heads[0])
    others = [sum(answer[index] for answer in answers) / len(answers) for index in range(1, len(answers[0]))]
    return SoftLabels(tuple(tensor.float().numpy() for tensor in (first, *others)), weight=weight, temperature=temperature)


def _average(logits: list[Any], head: Head) -> Any:
    import torch

    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack(logits)
    if head in (Head.LOGITS, Head.PROBABILITIES):
        return stacked.softmax(dim=-1 if stacked.ndim <= 4 else 2).mean(dim=0).clamp_min(_TINY).log()
    if head in (Head.ONE_LOGIT, Head.ONE_PROBABILITY):
        return torch.logit(torch.sigmoid(stacked).mean(dim=0), eps=_TINY)
    return stacked.mean(dim=0)
