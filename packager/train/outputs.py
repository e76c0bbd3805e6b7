"""Which layers give the network's outputs: their channels are the answer, so nothing may remove them.

Found by walking back from the outputs through torch's own record of the computation, until the first layers with weights.
"""

from __future__ import annotations

from typing import Any

from packager.train.rows import as_outputs

_MAX_STEPS = 100_000


def output_layers(module: Any, example: tuple[Any, ...]) -> list[Any]:
    """Modules whose weights are the last ones before an output; normalisations, which keep channels, are passed through.

    Args:
        module: in eval mode.
        example: its inputs.
    """
    import torch

    owners: dict[int, list[Any]] = {}  # several layers may share a weight
    for layer in module.modules():
        if not isinstance(layer, _channel_keeping()):
            for parameter in layer.parameters(recurse=False):
                owners.setdefault(id(parameter), []).append(layer)
    with torch.enable_grad():
        outputs = as_outputs(module(*example))
    pending = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen: set[Any] = set()
    found: list[Any] = []
    while pending and len(seen) < _MAX_STEPS:
        step = pending.pop()
        if step in seen:
            continue
        seen.add(step)
        layers = [layer for key in _parameters(step) for layer in owners.get(key, ())]
        if layers:
            found += [layer for layer in layers if all(layer is not other for other in found)]
        else:
            pending += [follow for follow, _ in step.next_functions if follow is not None]
    return found


def _parameters(step: Any) -> list[int]:
    """Identities of the parameters that a step of the record takes, directly or transposed."""
    found = []
    for follow, _ in step.next_functions:
        inner = follow
        while inner is not None and type(inner).__name__ in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
            inner = inner.next_functions[0][0]
        if inner is not None and hasattr(inner, "variable"):
            found.append(id(inner.variable))
    return found


def _channel_keeping() -> tuple[Any, ...]:
    from torch import nn

    return (
        nn.modules.batchnorm._NormBase,
        nn.LayerNorm,
        nn.GroupNorm,
        nn.PReLU,
        *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
    )
