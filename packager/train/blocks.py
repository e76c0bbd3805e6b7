"""Removes whole blocks of a torch module: those that return the shape they get, so that nothing around them changes.

A residual block, a transformer layer, a square convolution or linear layer may all go. Which one goes is measured: each is
skipped in turn and the loss is taken again; the one whose skipping costs least per parameter goes first. Trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from device_client.errors import UsageError
from packager.train.need import count_parameters

MAX_CANDIDATES = 64
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


@dataclass(frozen=True)
class RemovedBlock:
    """One block that went. ``loss``: without it, before recovery; ``parameters``: what it held."""

    name: str
    parameters: int
    loss: float

    def to_json(self) -> dict[str, object]:
        """As it stands in the evidence."""
        return {"name": self.name, "parameters": self.parameters, "loss": round(self.loss, 6)}


def remove_block(module: Any, example: tuple[Any, ...], *, loss: Callable[[Any], float], where: str) -> RemovedBlock:
    """Replaces the block that is missed least by nothing, in place.

    Args:
        module: in eval mode.
        example: its inputs.
        loss: of a module, on rows to choose by; lower is better.
        where: for errors.

    Raises:
        UsageError: there is no block of equal input and output.
    """
    begun = loss(module)
    trials = []
    for name in skippable_blocks(module, example)[:MAX_CANDIDATES]:
        parameters = count_parameters(dict(module.named_modules())[name])
        undo = _skip(module, name)
        try:
            without = loss(module)
        except _FAILURES:
            continue  # the forward function looks inside this block
        finally:
            undo()
        if not math.isnan(without):
            trials.append((max(without - begun, 0.0) / parameters, -parameters, name, without))
    if not trials:
        raise UsageError(
            "no block can be removed",
            code="prune_nothing",
            where=where,
            expected="blocks with weights that return the shape they get",
            hint="set blocks = 0",
        )
    _, negative, name, without = min(trials)
    _skip(module, name)
    return RemovedBlock(name, -negative, without)


def skippable_blocks(module: Any, example: tuple[Any, ...]) -> list[str]:
    """Names of submodules with layers in them that run once and return one tensor of their first input's shape."""
    import torch
    from torch import nn

    heavy = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase)
    calls: dict[str, list[bool]] = {}
    handles = []
    for name, layer in module.named_modules():
        if name and any(isinstance(inner, heavy) for inner in layer.modules()):
            handles.append(layer.register_forward_hook(_recorder(calls.setdefault(name, []))))
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, found in calls.items() if found == [True]]


def _recorder(found: list[bool]) -> Callable[[Any, Any, Any], None]:
    import torch

    def record(layer: Any, inputs: Any, output: Any) -> None:
        same = bool(inputs) and isinstance(inputs[0], torch.Tensor) and isinstance(output, torch.Tensor)
        found.append(same and inputs[0].shape == output.shape and inputs[0].dtype == output.dtype)

    return record


def _skip(module: Any, name: str) -> Callable[[], None]:
    """Puts nothing in a block's place; returns what puts the block back."""
    parent_name, _, leaf = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    block = getattr(parent, leaf)
    setattr(parent, leaf, _nothing())
    return lambda: setattr(parent, leaf, block)


def _nothing() -> Any:
    from torch import nn

    class Skipped(nn.Module):  # type: ignore[misc]  # torch is not typed here
        """Returns its first argument, whatever else it gets."""

        def forward(self, value: Any, *others: Any, **named: Any) -> Any:
            """The value."""
            return value

    return Skipped()
