"""Where a network is listened to: outputs of inner layers, of a teacher and a student at matching depths.

A tap is a pair of module names. Without names, layers are matched by how deep they are in the order of execution: one
half way, and the last one before the output. Listening changes nothing that the networks compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from device_client.errors import UsageError
from packager.train.outputs import output_layers

_DEPTHS = (0.5, 1.0)


@dataclass(frozen=True)
class Tap:
    """A layer of each network. ``*_axis``: of the channels in its output."""

    teacher: str
    student: str
    teacher_axis: int
    student_axis: int

    def __str__(self) -> str:
        return f"{self.teacher}={self.student}"


class Listener:
    """Keeps the last output of each named layer; ``close`` removes its hooks."""

    def __init__(self, module: Any, names: tuple[str, ...]) -> None:
        self.heard: dict[str, Any] = {}
        layers = dict(module.named_modules())
        self._handles = [layers[name].register_forward_hook(self._keep(name)) for name in names]

    def close(self) -> None:
        """Stops listening."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str) -> Callable[[Any, Any, Any], None]:
        def keep(layer: Any, inputs: Any, output: Any) -> None:
            self.heard[name] = output[0] if isinstance(output, tuple) else output

        return keep


def choose_taps(teacher: Any, student: Any, example: tuple[Any, ...], wanted: tuple[str, ...], *, where: str) -> tuple[Tap, ...]:
    """The pairs named in ``wanted`` (``teacher.layer=student.layer``), or by depth where it is empty.

    Raises:
        UsageError: a name that does not exist or is no layer with channels, or no layer at all.
    """
    theirs, ours = _layers(teacher, example), _layers(student, example)
    if wanted:
        return tuple(_named(pair, theirs, ours, where=where) for pair in wanted)
    theirs, ours = (_without_outputs(layers, module, example) for layers, module in ((theirs, teacher), (ours, student)))
    if not theirs or not ours:
        raise UsageError(
            "there is no inner layer to match",
            code="distil_taps",
            where=where,
            expected="a layer with weights before the output layer, in both networks",
            hint='set internal = "none"',
        )
    taps: dict[str, Tap] = {}
    for depth in _DEPTHS:
        mine = _at(list(ours), depth)
        same = [name for name in theirs if _kind(theirs[name]) == _kind(ours[mine])] or list(theirs)
        other = _at(same, depth)
        taps.setdefault(mine, Tap(other, mine, theirs[other], ours[mine]))
    return tuple(taps.values())


def _at(names: list[str], depth: float) -> str:
    return names[max(0, round(depth * len(names)) - 1)]


def _kind(axis: int) -> bool:
    return axis == 1


def _layers(module: Any, example: tuple[Any, ...]) -> dict[str, int]:
    """Layers with weights that run once, in order of execution, with the axis of their channels."""
    import torch
    from torch import nn

    last = (nn.Linear, nn.LayerNorm, nn.RNNBase)
    second = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
    order: list[str] = []
    handles = []
    axes: dict[str, int] = {}
    for name, layer in module.named_modules():
        if name and isinstance(layer, (*last, *second)):
            axes[name] = -1 if isinstance(layer, last) else 1
            handles.append(layer.register_forward_hook(lambda *_, name=name: order.append(name)))
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: axes[name] for name in order if order.count(name) == 1}


def _without_outputs(layers: dict[str, int], module: Any, example: tuple[Any, ...]) -> dict[str, int]:
    outputs = output_layers(module, example)
    named = dict(module.named_modules())
    return {name: axis for name, axis in layers.items() if all(named[name] is not layer for layer in outputs)}


def _named(pair: str, theirs: dict[str, int], ours: dict[str, int], *, where: str) -> Tap:
    other, separator, mine = pair.partition("=")
    other, mine = other.strip(), mine.strip()
    if not separator or other not in theirs or mine not in ours:
        raise UsageError(
            "no such pair of layers",
            code="distil_taps",
            where=where,
            expected=f"TEACHER=STUDENT of {', '.join(theirs)} = {', '.join(ours)}"[:300],
            actual=repr(pair)[:80],
            hint="use names of layers with weights, as named_modules() gives them",
        )
    return Tap(other, mine, theirs[other], ours[mine])
