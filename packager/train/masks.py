"""Masks over a module's weights: which are zero, how the share grows while training, and the proof in the exported file.

Two shapes: any weights of a tensor, smallest first, and N of every M along the inputs. Masks only multiply weights; the
network keeps its size, and its arithmetic stays dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import SealiftError, UsageError

GROWTH_SHARE = 0.7  # of all steps: masks grow until then, and only weights train after it
_UPDATES = 20


@dataclass(frozen=True)
class Target:
    """One weight tensor to be masked. ``name``: as in ``named_parameters``."""

    name: str
    parameter: Any


def find_targets(module: Any, *, min_elements: int, exclude: tuple[str, ...], where: str) -> tuple[Target, ...]:
    """Weight matrices and kernels of convolutions, linear and recurrent layers; shared ones once.

    Args:
        module: a torch module.
        min_elements: smaller tensors are left alone.
        exclude: names of modules or parameters to leave alone, with all that is inside.
        where: for errors.

    Raises:
        UsageError: an excluded name that does not exist, or nothing is left.
    """
    from torch import nn

    names = {name for name, _ in (*module.named_modules(), *module.named_parameters()) if name}
    for name in exclude:
        if name not in names:
            raise UsageError(
                "no module or parameter of this name",
                code="prune_exclude",
                where=where,
                expected=", ".join(sorted(names))[:200],
                actual=repr(name)[:80],
                hint="use the names that torch's named_modules() gives",
            )
    heavy = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
    found: dict[int, Target] = {}
    for owner, layer in module.named_modules():
        if isinstance(layer, heavy):
            for leaf, parameter in layer.named_parameters(recurse=False):
                name = f"{owner}.{leaf}" if owner else leaf
                inside = any(name == other or name.startswith(f"{other}.") for other in exclude)
                if parameter.ndim >= 2 and parameter.numel() >= min_elements and not inside:
                    found.setdefault(id(parameter), Target(name, parameter))
    if not found:
        raise UsageError(
            "there is no weight to prune",
            code="prune_nothing",
            where=where,
            expected=f"a layer with at least {min_elements} weights that is not excluded",
            hint="lower 'min_elements' or shorten 'exclude'",
        )
    return tuple(found.values())


class GrowingMasks:
    """Masks that grow by a cubic schedule; a hook of the training loop.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", equation 1: the share at time t of 1 is 1 - (1 - t)^3 of the
    final one, so most goes early, while there is training left to make up for it.
    """

    def __init__(self, targets: tuple[Target, ...], choose: Callable[[tuple[Target, ...], float], dict[str, Any]]) -> None:
        self._targets, self._choose = targets, choose
        self.masks: dict[str, Any] = {}

    def __call__(self, step: int, steps: int) -> None:
        """After each optimiser step: grow at the times of the schedule, and multiply."""
        last = max(1, round(GROWTH_SHARE * steps))
        every = max(1, last // _UPDATES)
        if step <= last and (step % every == 0 or step == last):
            self._grow(step / last)
        self._apply()

    def finish(self) -> None:
        """The final masks, also where nothing was trained."""
        self._grow(1.0)
        self._apply()

    def _grow(self, time: float) -> None:
        self.masks = self._choose(self._targets, 1.0 - (1.0 - time) ** 3)

    def _apply(self) -> None:
        import torch

        with torch.no_grad():
            for target in self._targets:
                if target.name in self.masks:
                    target.parameter.mul_(self.masks[target.name])


def choose_smallest(share: float, *, network: bool) -> Callable[[tuple[Target, ...], float], dict[str, Any]]:
    """Zeroes the smallest weights: ``share`` of each tensor, or of the network ranked by weight over its tensor's RMS."""

    def choose(targets: tuple[Target, ...], growth: float) -> dict[str, Any]:
        import torch

        scores = {target.name: _scores(target, relative=network) for target in targets}
        if not network:
            return {name: _keep_largest(score, share * growth) for name, score in scores.items()}
        keep = _keep_largest(torch.cat([score.reshape(-1) for score in scores.values()]), share * growth)
        parts = torch.split(keep, [score.numel() for score in scores.values()])
        return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}

    return choose


def choose_n_of_m(n: int, m: int) -> Callable[[tuple[Target, ...], float], dict[str, Any]]:
    """Keeps the ``n`` largest of every ``m`` weights along the inputs of each output."""

    def choose(targets: tuple[Target, ...], growth: float) -> dict[str, Any]:
        import torch

        kept = m - round((m - n) * growth)
        masks = {}
        for target in targets:
            groups, restore = group_by_inputs(target.parameter.detach().abs(), m)
            order = groups.argsort(dim=-1, descending=True, stable=True)
            mask = torch.zeros_like(groups).scatter_(-1, order[..., :kept], 1.0)
            masks[target.name] = restore(mask)
        return masks

    return choose


def group_by_inputs(weight: Any, m: int) -> tuple[Any, Callable[[Any], Any]]:
    """Groups of ``m`` weights, (groups, m), along input channels or, where these do not divide, along the whole kernel.

    Returns the groups and what brings such an array back into the weight's shape.
    """
    if weight.shape[1] % m == 0:
        moved = weight.movedim(1, -1)
        return moved.reshape(-1, m), lambda groups: groups.reshape(moved.shape).movedim(-1, 1)
    return weight.reshape(-1, m), lambda groups: groups.reshape(weight.shape)


def divides(weight: Any, m: int) -> bool:
    """True if ``group_by_inputs`` can group this weight without a group that reaches into the next output."""
    return bool(weight.shape[1] % m == 0 or (weight.numel() // weight.shape[0]) % m == 0)


def verify_in_file(data: bytes, masks: dict[str, Any], *, where: str) -> dict[str, object]:
    """Finds every mask in the exported file: some constant is zero wherever the mask is.

    Returns:
        The number of zeros among all constants of two and more axes, and their share.

    Raises:
        SealiftError: a mask is not there, so the export undid it.
    """
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer]
    weights = [array for array in arrays if array.ndim >= 2 and array.dtype.kind == "f"]
    for name, mask in masks.items():
        zero = mask.numpy() == 0
        if not any(_covers(array, zero) for array in weights):
            raise SealiftError(
                "the exported model does not have the zeros that pruning made",
                code="prune_sparsity",
                where=f"{where}: {name}",
                expected=f"{int(zero.sum())} of {zero.size} weights at zero",
                hint="report this model: the export must not change weights",
            )
    zeros = sum(int((array == 0).sum()) for array in weights)
    total = sum(array.size for array in weights)
    return {"zero_weights": zeros, "weights": total, "zero_share": round(zeros / total, 6)}


def _covers(array: NDArray[Any], zero: NDArray[np.bool_]) -> bool:
    """True if the constant is zero at all of the mask's places, as it stands or transposed.

    Recurrent layers are exported with their directions in one constant, (directions, gates * hidden, inputs), and their gates
    in another order; there the number of zeros of one direction decides.
    """
    if array.ndim == 3 and array.shape[1:] == zero.shape:
        return any(int((direction == 0).sum()) >= int(zero.sum()) for direction in array)
    if array.size != zero.size:
        return False
    wanted = zero.reshape(-1)
    return any(len(turned) == len(zero) and not turned.reshape(-1)[wanted].any() for turned in (array, array.T))


def _scores(target: Target, *, relative: bool) -> Any:
    weight = target.parameter.detach().abs()
    return weight / weight.pow(2).mean().sqrt().clamp_min(1e-12) if relative else weight


def _keep_largest(scores: Any, share: float) -> Any:
    """Ones at the largest scores; exactly ``round(share * elements)`` zeros, ties by place."""
    import torch

    flat = scores.reshape(-1)
    mask = torch.ones_like(flat)
    mask[flat.argsort(stable=True)[: round(share * flat.numel())]] = 0.0
    return mask.reshape(scores.shape)
