"""Gradients of the training loss on a few batches: what first-order importance ranks channels by. Changes no weight."""

from __future__ import annotations

from typing import Any

from packager.train.objective import SoftLabels, find_head, soft_loss, task_loss
from packager.train.rows import Rows, as_outputs
from packager.training_plan import TrainingPlan


def accumulate_gradients(module: Any, rows: Rows, *, task: str, plan: TrainingPlan, teacher: SoftLabels, batches: int) -> None:
    """Leaves summed gradients on the parameters, in eval mode so that running statistics stay."""
    module.zero_grad(set_to_none=True)
    found = task_loss(module, rows, task=task, plan=plan)
    soft = soft_loss(find_head(module, rows, task=task), teacher)
    for count, batch in enumerate(rows.batches(plan.batch_rows)):
        if count == batches:
            break
        outputs = as_outputs(module(*batch.inputs))
        loss = soft(outputs, batch) if found is None else found.loss(outputs, batch)
        loss.backward()
