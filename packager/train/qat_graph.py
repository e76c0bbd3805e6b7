"""A torch module as a graph with quantisation in it, and that graph as ONNX. The one door to torchao.

    graph = trace(module, example)            # operators of torch, batch normalisation folded into convolutions
    prepared = prepare(graph, ...)            # fake quantisation at inputs and weights of the heavy operators
    ... train prepared ...
    data = to_onnx(prepared, ...)             # QuantizeLinear, DequantizeLinear, INT8 weights

What is quantised is decided here and not by a quantiser that torchao ships: the one for x86 leaves one-dimensional
convolutions in FP32, and its narrow range is that of activations, not of weights. Batch normalisation is folded first,
with its running statistics: torchao's own folding took 89 s for two convolutions.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from device_client.errors import MissingExtraError, UsageError

OPSET = 18
MAX_BATCH = 65_536
_ACTIVATION_EPS = 2.0**-12  # smallest scale: a constant activation must not divide by zero
_FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, AssertionError)


@dataclass(frozen=True)
class Prepared:
    """A graph in training. ``graph``: a torch module of the same signature. ``quantised``: operators that take part."""

    graph: Any
    quantised: int


def trace(module: Any, example: tuple[Any, ...], *, where: str) -> Any:
    """The module's graph in eval mode, for any number of rows; its weights are its own.

    Raises:
        UsageError: torch cannot trace the module, or only for one number of rows.
    """
    import torch

    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with quiet():
        try:
            program = torch.export.export(copy.deepcopy(module).eval(), example, dynamic_shapes=tuple({0: batch} for _ in example))
            graph = program.module()
            fold_normalisation(graph)
        except Exception as e:  # the tracer raises classes of its own for what it cannot follow
            raise _failed("torch cannot trace the module", e, where=where) from e
    return graph


def prepare(graph: Any, example: tuple[Any, ...], *, weight_bits: int, exclude: tuple[str, ...], where: str) -> Prepared:
    """Puts fake quantisation into the graph.

    Args:
        graph: from ``trace``.
        example: inputs of a few rows, which set the first ranges.
        weight_bits: 7 or 8; 7 is safe on x86 without VNNI (see ``quantise.py``).
        exclude: names of modules to leave in FP32.
        where: for errors.

    Raises:
        MissingExtraError: torchao is not installed.
        UsageError: there is nothing to quantise, or torchao cannot take the graph.
    """
    with quiet():
        try:
            from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
        except ModuleNotFoundError as e:
            raise MissingExtraError("train", missing=e.name or "torchao") from e
        quantiser = _make_quantiser(weight_bits, exclude)
        try:
            prepared = prepare_qat_pt2e(graph, quantiser)
        except _FAILURES as e:
            raise _failed("torchao cannot prepare the module", e, where=where) from e
        if not quantiser.annotated:
            raise UsageError(
                "nothing in this module can be trained quantised",
                code="qat_nothing",
                where=where,
                expected="convolutions or linear layers that are not excluded",
                hint="recurrent layers stay in FP32: use int8-dynamic or weight-only for these",
            )
        prepared(*example)
    return Prepared(prepared, quantiser.annotated)


def set_observing(graph: Any, *, on: bool) -> None:
    """Whether running the graph moves the ranges of its activations."""
    from torchao.quantization.pt2e import disable_observer, enable_observer

    graph.apply(enable_observer if on else disable_observer)


def to_onnx(graph: Any, example: tuple[Any, ...], *, inputs: list[str], outputs: list[str], where: str) -> tuple[bytes, Any]:
    """The ONNX file of a trained graph, as exported, and the graph with real INT8 weights to compare it with.

    Raises:
        UsageError: torchao or the exporter cannot take the graph.
    """
    import torch

    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
        try:
            converted = convert_pt2e(graph)
            program = torch.onnx.export(
                converted,
                example,
                None,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=tuple({0: batch} for _ in example),
                external_data=False,
                verbose=False,
            )
        except Exception as e:  # the exporter raises classes of its own
            raise _failed("torch cannot export the quantised module", e, where=where) from e
    data: bytes = program.model_proto.SerializeToString(deterministic=True)
    return data, converted


def fold_normalisation(graph: Any) -> int:
    """Merges batch normalisations, with their running statistics, into the convolution before them; returns how many.

    Source: Jacob et al. 2018, "Quantization and training of neural networks", section 3.2, without the correction of
    running statistics: the module comes trained.
    """
    import torch

    aten = torch.ops.aten
    convolutions = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
    folded = 0
    for node in list(graph.graph.nodes):
        source = node.args[0] if node.target is aten.batch_norm.default else None
        if source is None or source.target not in convolutions or len(source.users) != 1 or len(source.args[1].users) != 1:
            continue
        weight, bias = _tensor(graph, source.args[1]), _tensor(graph, source.args[2] if len(source.args) > 2 else None)
        gamma, beta, mean, variance = (_tensor(graph, argument) for argument in node.args[1:5])
        factor = (variance + node.args[7]).rsqrt() * (1.0 if gamma is None else gamma)
        shift = (0.0 if beta is None else beta) + ((0.0 if bias is None else bias) - mean) * factor
        _set(graph, source.args[1].target, weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
        name = f"folded_bias_{folded}"
        graph.register_parameter(name, torch.nn.Parameter(shift.detach().clone()))
        with graph.graph.inserting_before(source):
            new_bias = graph.graph.get_attr(name)
        source.args = (source.args[0], source.args[1], new_bias, *source.args[3:])
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
        folded += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return folded


@contextmanager
def quiet() -> Iterator[None]:
    """Torchao and torch's exporter warn of missing GPU libraries and of their own future; nothing of it is for the user."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.utils._pytree", "torchao", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _make_quantiser(weight_bits: int, exclude: tuple[str, ...]) -> Any:
    """What torchao asks which tensors to quantise and how: inputs U8 per tensor, weights S8 per channel and symmetric."""
    import torch
    from torchao.quantization.pt2e import (
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    aten = torch.ops.aten
    heavy = (aten.conv1d.default, aten.conv2d.default, aten.linear.default)
    fake = FusedMovingAvgObsFakeQuantize
    values = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=fake.with_args(observer=MovingAverageMinMaxObserver, eps=_ACTIVATION_EPS),
    )
    largest = 2 ** (weight_bits - 1) - 1
    weights = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-largest,
        quant_max=largest,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=fake.with_args(observer=MovingAveragePerChannelMinMaxObserver, eps=_ACTIVATION_EPS),
    )

    class HeavyOperators(Quantizer):  # type: ignore[misc]  # torchao is not typed here
        """Inputs and weights of convolutions and linear layers; sums too in networks without attention or GELU."""

        def __init__(self) -> None:
            super().__init__()
            self.annotated = 0

        def annotate(self, model: Any) -> Any:
            """Marks the edges to quantise."""
            plain = not any(_needs_fp32_sums(node) for node in model.graph.nodes)
            for node in model.graph.nodes:
                if _is_inside(node, exclude):
                    continue
                if node.target in heavy and node.args[1].op == "get_attr":
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map={node.args[0]: values, node.args[1]: weights}, _annotated=True
                    )
                    self.annotated += 1
                elif plain and node.target is aten.add.Tensor and _sums_two_activations(node):
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map={node.args[0]: values, node.args[1]: values}, _annotated=True
                    )
            return model

        def validate(self, model: Any) -> None:
            """Nothing to check: what came out is checked in the ONNX file."""

    return HeavyOperators()


def _needs_fp32_sums(node: Any) -> bool:
    """True for what marks a network whose sums have wide ranges; a softmax as the network's last operation does not."""
    import torch

    aten = torch.ops.aten
    if node.target in (aten.softmax.int, aten._softmax.default):
        return any(user.op != "output" for user in node.users)
    return node.target in (aten.layer_norm.default, aten.gelu.default)


def _sums_two_activations(node: Any) -> bool:
    sides = node.args[:2]
    if any(not hasattr(side, "meta") or side.op == "get_attr" for side in sides) or sides[0] is sides[1]:
        return False
    shapes = [getattr(side.meta.get("val"), "shape", None) for side in sides]
    return shapes[0] is not None and shapes[0] == shapes[1] and sides[0].meta["val"].is_floating_point()


def _is_inside(node: Any, exclude: tuple[str, ...]) -> bool:
    """True if the operator comes from one of the named modules."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]).replace("L['self'].", "") for entry in stack.values()]
    return any(path == name or path.endswith(f".{name}") for path in paths for name in exclude)


def _tensor(graph: Any, node: Any) -> Any:
    if node is None:
        return None
    found = graph
    for part in node.target.split("."):
        found = getattr(found, part)
    return found.detach()


def _set(graph: Any, target: str, value: Any) -> None:
    import torch

    with torch.no_grad():
        found = graph
        for part in target.split("."):
            found = getattr(found, part)
        found.copy_(value)


def _failed(what: str, error: Exception, *, where: str) -> UsageError:
    return UsageError(
        f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
        code="qat_failed",
        where=where,
        hint="write the forward pass without control flow on values or on the batch size, or use int8-static",
    )
