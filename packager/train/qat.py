"""The technique ``qat``: training with quantisation in the loop.

``weights = "int8"``: activations and weights are rounded in every forward pass, so that the network learns to live with it;
the result is an INT8 file in QDQ form, as ``int8-static`` makes it. ``ternary`` and ``binary``: weights of two or three
values per layer; the result is an FP32 file that runs anywhere and is stored in one or two bits a weight (``codebook``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from device_client.errors import UsageError
from device_client.inference.walker import check_model
from packager.data import Dataset
from packager.evaluate import run_rows
from packager.toml_table import TomlTable
from packager.torch_run import torch_reproducible
from packager.train.loop import train_module
from packager.train.need import check_names, need_module, need_rows
from packager.train.qat_graph import Prepared, prepare, quiet, set_observing, to_onnx, trace
from packager.train.qdq import finish_qdq
from packager.train.rows import Rows, as_outputs, input_names, make_rows
from packager.train.teacher import teach

if TYPE_CHECKING:
    from packager.technique import Compressed, TechniqueContext

NAME = "qat"
_CALIBRATION_BATCHES = 16
_OBSERVED_SHARE = 0.5  # of all steps: activation ranges move until then, and weights adapt to fixed ones after it
_COMPARED_ROWS = 64
_LARGEST_GAP = 0.1  # mean difference between torch's and onnxruntime's outputs, by the outputs' spread


@dataclass(frozen=True)
class Qat:
    """Settings of ``qat``.

    ``weights``: ``int8``, ``ternary`` or ``binary``. ``weight_bits``: of ``int8``; 7 is safe on x86 without VNNI.
    ``rate``: of the plan's learning rate, which is meant for a fresh network. ``exclude``: modules that stay in FP32.
    ``ends``: whether first and last layer become ternary or binary too.
    """

    weights: str = "int8"
    weight_bits: int = 7
    rate: float = 0.3
    exclude: tuple[str, ...] = ()
    ends: bool = False
    soft_weight: float = 0.5
    temperature: float = 2.0

    @classmethod
    def from_toml(cls, table: TomlTable) -> Qat:
        """Reads the technique's table of a recipe."""
        default = cls()
        return cls(
            weights=table.text("weights", default.weights, choices=("int8", "ternary", "binary")),
            weight_bits=table.integer("weight_bits", default.weight_bits, minimum=7, maximum=8),
            rate=table.number("rate", default.rate, minimum=0.001, maximum=10.0),
            exclude=table.texts("exclude"),
            ends=table.boolean("ends", default=default.ends),
            soft_weight=table.number("soft_weight", default.soft_weight, minimum=0.0, maximum=1.0),
            temperature=table.number("temperature", default.temperature, minimum=0.1, maximum=100.0),
        )


def qat(model: Compressed, config: Qat, context: TechniqueContext) -> Compressed:
    """Trains a copy of the module with quantised weights.

    Deterministic by ``context.seed``. ``int8`` hands on no module: what it trained is a graph that no other technique takes.

    Raises:
        UsageError: no module, no training rows, nothing to quantise, or a module that torch cannot trace.
    """
    module = need_module(model, technique=NAME)
    train = need_rows(context, technique=NAME)
    if config.weights != "int8":
        from packager.train.lowbit import train_low_bit

        return train_low_bit(model, module, train, config, context)
    return _train_int8(model, module, train, config, context)


def _train_int8(model: Compressed, module: Any, train: Dataset, config: Qat, context: TechniqueContext) -> Compressed:
    check_names(module, config.exclude, technique=NAME)
    rows = make_rows(module, train)
    example = rows.example()
    with torch_reproducible(context.seed, threads=context.training.threads):
        soft = teach([module], rows, task=context.task, weight=config.soft_weight, temperature=config.temperature)
        graph = trace(module, example, where=NAME)
        prepared = prepare(graph, example, weight_bits=config.weight_bits, exclude=config.exclude, where=NAME)
        fake = _FakeQuantised(prepared)
        _settle_ranges(fake, rows, batch_rows=context.training.batch_rows)
    with quiet():
        history = train_module(
            fake.module,
            train,
            context.validation,
            task=context.task,
            plan=replace(context.training, learning_rate=context.training.learning_rate * config.rate),
            seed=context.seed,
            teacher=soft,
            hook=fake.freeze_ranges,
        )
    names = input_names(module, len(example))
    count = len(as_outputs(module(*example)))
    outputs = ["y"] if count == 1 else [f"y{index}" for index in range(count)]
    with torch_reproducible(context.seed):
        data, converted = to_onnx(prepared.graph, example, inputs=names, outputs=outputs, where=NAME)
        data = finish_qdq(data, where=NAME)
        _compare(data, converted, train.take(np.arange(min(len(train), _COMPARED_ROWS))), rows, outputs)
    evidence: dict[str, object] = {
        "technique": NAME,
        "weights": "int8",
        "weight_bits": config.weight_bits,
        "quantised_operators": prepared.quantised,
        "training": history.to_json(),
        "bytes": {"before": len(model.data), "after": len(data)},
    }
    return replace(model, data=data, precision="int8", evidence=(*model.evidence, evidence), module=None)


class _FakeQuantised:
    """The prepared graph as a module that the loop can train: ranges move in training mode only, and only at first."""

    def __init__(self, prepared: Prepared) -> None:
        from torch import nn

        graph = prepared.graph
        frozen = self._frozen = [False]

        class Trained(nn.Module):  # type: ignore[misc]  # torch is not typed here
            """The graph; its own ``train`` refuses, and changes nothing in a graph without dropout or batch statistics."""

            def __init__(self) -> None:
                super().__init__()
                self.graph = graph

            def forward(self, *inputs: Any) -> Any:
                """What the graph computes."""
                return self.graph(*inputs)

            def train(self, mode: bool = True) -> Any:  # torch's signature
                """Sets whether ranges move."""
                self.training = mode
                set_observing(self.graph, on=mode and not frozen[0])
                return self

        self.module = Trained()

    def freeze_ranges(self, step: int, steps: int) -> None:
        """A hook of the loop."""
        if not self._frozen[0] and step >= _OBSERVED_SHARE * steps:
            self._frozen[0] = True
            set_observing(self.module.graph, on=False)


def _settle_ranges(fake: _FakeQuantised, rows: Rows, *, batch_rows: int) -> None:
    """First ranges from some batches, so that training begins near the FP32 network."""
    import torch

    fake.module.train()
    with torch.no_grad():
        for count, batch in enumerate(rows.batches(batch_rows)):
            if count == _CALIBRATION_BATCHES:
                break
            fake.module(*batch.inputs)
    fake.module.eval()


def _compare(data: bytes, converted: Any, part: Dataset, rows: Rows, names: list[str]) -> None:
    """Runs the file and torch's graph on the same rows; a rounding may go the other way, a defect is far off."""
    import torch

    count = len(part)
    actual = run_rows(check_model(data, where=NAME), part)
    wanted = _run_graph(converted, rows.batch(torch.arange(count)).inputs)
    for name, want in zip(names, wanted, strict=True):
        gap = float(np.abs(actual[name].reshape(want.shape) - want).mean())
        spread = float(want.std()) or 1.0
        if not gap <= _LARGEST_GAP * spread:
            raise UsageError(
                "the exported model does not compute what was trained",
                code="qat_failed",
                where=f"{NAME}, output {name}",
                expected=f"a mean difference of at most {_LARGEST_GAP:g} of the outputs' spread",
                actual=f"{gap / spread:.3g}",
                hint="use int8-static for this model",
            )


def _run_graph(graph: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """Outputs of a converted graph as arrays; such a graph has no training mode to leave."""
    import torch

    with torch.no_grad():
        return [output.numpy() for output in as_outputs(graph(*inputs))]
