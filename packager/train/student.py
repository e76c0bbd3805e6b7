"""The smaller network of a distillation: a person's own, or the teacher with a share of its channels removed."""

from __future__ import annotations

import copy
from typing import Any

from device_client.entrypoint import load_entry_point
from device_client.errors import UsageError
from packager.torch_run import torch_reproducible
from packager.train.channels import ChannelPlan, ChannelPruner
from packager.train.need import count_parameters
from packager.train.rows import as_outputs


def make_student(teacher: Any, example: tuple[Any, ...], *, entry: str, plan: ChannelPlan, seed: int, where: str) -> Any:
    """A student of ``teacher``, in eval mode.

    Args:
        teacher: a torch module in eval mode.
        example: its inputs.
        entry: ``module:function`` without arguments that returns a module; empty: a scaled-down copy.
        plan: how far to scale down.
        seed: while the function runs.
        where: for errors.

    Raises:
        UsageError: it is not smaller, or does not take the same inputs and give outputs of the same shapes.
    """
    if not entry:
        student = copy.deepcopy(teacher)
        ChannelPruner(student, example, plan, gradients=None, where=where).step()
        return student
    with torch_reproducible(seed):
        student = modules_from(entry, where=where)[0].eval()
    return check_student(teacher, student, example, where=entry)


def modules_from(entry: str, *, where: str) -> list[Any]:
    """Calls ``module:function``: one torch module, or several in a list.

    Raises:
        UsageError: something else came back.
    """
    from torch import nn

    found = load_entry_point(entry)()
    modules = list(found) if isinstance(found, (list, tuple)) else [found]
    if not modules or not all(isinstance(module, nn.Module) for module in modules):
        raise UsageError(
            "the function must return a torch module, or a list of them",
            code="distil_student",
            where=f"{where}: {entry}",
            actual=type(found).__name__,
        )
    return [module.cpu() for module in modules]


def check_student(teacher: Any, student: Any, example: tuple[Any, ...], *, where: str) -> Any:
    """The student, if it fits."""
    wanted = _shapes(teacher, example)
    try:
        shapes = _shapes(student, example)
    except (RuntimeError, TypeError, ValueError, IndexError) as e:
        raise UsageError(
            f"the student does not take the model's inputs: {' '.join(str(e).split())[:160]}", code="distil_student", where=where
        ) from e
    if shapes != wanted:
        raise UsageError(
            "the student's outputs have other shapes than the model's",
            code="distil_student",
            where=where,
            expected=wanted,
            actual=shapes,
        )
    if count_parameters(student) >= count_parameters(teacher):
        raise UsageError(
            "the student is not smaller than the model",
            code="distil_student",
            where=where,
            expected=f"fewer than {count_parameters(teacher)} parameters",
            actual=count_parameters(student),
        )
    return student


def _shapes(module: Any, example: tuple[Any, ...]) -> list[tuple[int, ...]]:
    import torch

    with torch.no_grad():
        return [tuple(output.shape) for output in as_outputs(module(*example))]
