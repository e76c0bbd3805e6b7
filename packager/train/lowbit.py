"""Ternary and binary weights, trained: ``qat`` with ``weights = "ternary"`` or ``"binary"``.

A layer's weights become -1, 0 and 1 (or -1 and 1) times one scale for each output channel. The scale is a factor after the
layer and not inside its weights, and batch normalisation a factor and a summand, so that the exported tensor holds two or
three values; the runtime merges them when it loads the file. FP32 in, FP32 out: no kernel is needed, and ``codebook``
stores such tensors in one or two bits a weight. It saves bytes, not time.

Source: Li et al. 2016, "Ternary weight networks" (threshold 0.7 of the mean magnitude); Rastegari et al. 2016, "XNOR-Net"
(binary weights with the mean magnitude as their scale); gradients pass straight through the rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from device_client.errors import SealiftError, UsageError
from device_client.inference.walker import check_model
from packager.data import Dataset
from packager.export import export_to_onnx
from packager.shrink import shrink_model
from packager.torch_run import torch_reproducible
from packager.train.loop import train_module
from packager.train.need import check_names, count_parameters
from packager.train.outputs import output_layers
from packager.train.rows import make_rows
from packager.train.teacher import teach

if TYPE_CHECKING:
    from packager.technique import Compressed, TechniqueContext
    from packager.train.qat import Qat

NAME = "qat"
THRESHOLD = 0.7  # of the mean magnitude: smaller weights become zero
_TINY = 1e-12


def train_low_bit(model: Compressed, module: Any, train: Dataset, config: Qat, context: TechniqueContext) -> Compressed:
    """Trains ``module`` with ternary or binary weights and exports it.

    Args:
        model: what the technique was given.
        module: a copy of its module, to change.
        train: rows to train on.
        config: ``weights`` is ``ternary`` or ``binary``.
        context: parts, task, seed, plan.

    Raises:
        UsageError: no layer is left to change.
    """
    rows = make_rows(module, train)
    example = rows.example()
    names = _layers(module, example, exclude=config.exclude, ends=config.ends)
    with torch_reproducible(context.seed):
        soft = teach([module], rows, task=context.task, weight=config.soft_weight, temperature=config.temperature)
    layers = [_replace(module, name, binary=config.weights == "binary") for name in names]
    plan = replace(context.training, learning_rate=context.training.learning_rate * config.rate)
    history = train_module(module, train, context.validation, task=context.task, plan=plan, seed=context.seed, teacher=soft)
    for layer in layers:
        layer.settle()
    _unfold_normalisation(module)
    with torch_reproducible(context.seed):
        data = shrink_model(export_to_onnx(module.eval(), example, where=NAME))
    check_model(data, where=NAME)
    _verify(data, layers, binary=config.weights == "binary")
    evidence: dict[str, object] = {
        "technique": NAME,
        "weights": config.weights,
        "value": "fewer bytes as stored, with few values a tensor; the arithmetic stays FP32",
        "layers": names,
        "low_bit_weight_share": round(sum(layer.weight.numel() for layer in layers) / max(1, count_parameters(module)), 6),
        "training": history.to_json(),
        "bytes": {"before": len(model.data), "after": len(data)},
    }
    return replace(model, data=data, precision="fp32", evidence=(*model.evidence, evidence), module=module)


def _layers(module: Any, example: tuple[Any, ...], *, exclude: tuple[str, ...], ends: bool) -> list[str]:
    """Names of the convolutions and linear layers to change, in order of execution."""
    import torch
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    known = dict(module.named_modules())
    check_names(module, exclude, technique=NAME)
    # torch's transformer layers read the weights of their linear layers past these, so the scale would be lost.
    past = [name for name, layer in known.items() if isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer))]
    order: list[str] = []
    handles = [
        layer.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, layer in known.items()
        if name and isinstance(layer, kinds) and getattr(layer, "padding_mode", "zeros") == "zeros"
    ]
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for handle in handles:
            handle.remove()
    last = output_layers(module, example)
    found = [
        name
        for place, name in enumerate(dict.fromkeys(order))
        if (ends or (place > 0 and all(known[name] is not layer for layer in last)))
        and not any(name == other or name.startswith(f"{other}.") for other in (*exclude, *past))
    ]
    if not found:
        raise UsageError(
            "no layer is left to make ternary or binary",
            code="qat_nothing",
            where=NAME,
            expected="convolutions or linear layers between the first and the last",
            hint="set ends = true, or shorten 'exclude'",
        )
    return found


def _replace(module: Any, name: str, *, binary: bool) -> Any:
    """Puts a layer with low-bit weights in the place of ``name``."""
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    layer = _low_bit(getattr(owner, leaf), binary=binary)
    setattr(owner, leaf, layer)
    return layer


def _low_bit(layer: Any, *, binary: bool) -> Any:
    import torch
    from torch import nn

    class LowBit(nn.Module):  # type: ignore[misc]  # torch is not typed here
        """A convolution or linear layer whose weights are few values, times a scale for each output channel."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = layer.weight, layer.bias
            self.settled = False

        def forward(self, x: Any) -> Any:
            """The layer's own operation."""
            axis = (1, -1, *[1] * (self.weight.ndim - 2)) if self.weight.ndim > 2 else (-1,)
            if self.settled:
                y = _apply(layer, x, self.codes) * self.scale.reshape(axis)
            else:
                codes, scale = low_bit_codes(self.weight, binary=binary)
                rounded = codes * scale.reshape(-1, *[1] * (self.weight.ndim - 1))
                y = _apply(layer, x, self.weight + (rounded - self.weight).detach())
            return y if self.bias is None else y + self.bias.reshape(axis)

        def settle(self) -> None:
            """Keeps the few values, and forgets what they were rounded from."""
            with torch.no_grad():
                codes, scale = low_bit_codes(self.weight, binary=binary)
            self.codes, self.scale = nn.Parameter(codes, requires_grad=False), nn.Parameter(scale, requires_grad=False)
            del self.weight
            self.weight = self.codes
            self.settled = True

    return LowBit()


def low_bit_codes(weight: Any, *, binary: bool) -> tuple[Any, Any]:
    """Codes in {-1, 0, 1} or {-1, 1}, of the weight's shape, and one scale for each output channel, (outputs,)."""
    import torch

    size = weight.detach().abs()
    axes = tuple(range(1, weight.ndim))
    ones = torch.ones_like(size)
    kept = ones if binary else (size > THRESHOLD * size.mean(dim=axes, keepdim=True)).to(size.dtype)
    codes = torch.where(weight.detach() >= 0, ones, -ones) * kept
    return codes, (size * kept).sum(dim=axes) / kept.sum(dim=axes).clamp_min(_TINY)


def _apply(layer: Any, x: Any, weight: Any) -> Any:
    import torch

    if weight.ndim == 2:
        return torch.nn.functional.linear(x, weight)
    run = {3: torch.nn.functional.conv1d, 4: torch.nn.functional.conv2d, 5: torch.nn.functional.conv3d}[weight.ndim]
    return run(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _unfold_normalisation(module: Any) -> None:
    """Batch normalisations become factor and summand: as such the exporter does not merge them into the weights."""
    from torch import nn

    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None and name:
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, _affine(layer))


def _affine(layer: Any) -> Any:
    import torch
    from torch import nn

    class Affine(nn.Module):  # type: ignore[misc]  # torch is not typed here
        """A factor and a summand for each channel."""

        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                factor = (layer.running_var + layer.eps).rsqrt() * (1.0 if layer.weight is None else layer.weight)
                shift = (0.0 if layer.bias is None else layer.bias) - layer.running_mean * factor
            self.factor, self.shift = nn.Parameter(factor), nn.Parameter(shift)

        def forward(self, x: Any) -> Any:
            """Channels are the second axis."""
            shape = (1, -1, *[1] * (x.ndim - 2))
            return x * self.factor.reshape(shape) + self.shift.reshape(shape)

    return Affine()


def _verify(data: bytes, layers: list[Any], *, binary: bool) -> None:
    """Each changed layer is in the file, with two or three values."""
    allowed = np.array([-1, 1] if binary else [-1, 0, 1], dtype=np.float32)
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer]
    low = {(array.size, array.sum()) for array in arrays if array.ndim > 1 and np.isin(array, allowed).all()}
    for layer in layers:
        codes = layer.codes.numpy()
        if (codes.size, codes.sum()) not in low:
            raise SealiftError(
                "the exported model does not have the low-bit weights that were trained",
                code="qat_lost",
                where=NAME,
                expected=f"a tensor of {codes.size} weights in {', '.join(f'{value:g}' for value in allowed)}",
                hint="report this model: the export must not change weights",
            )
