"""A model opened for attack: the runtime on the exact bytes, and the same bytes as a differentiable program.

The runtime is the judge (confidence, accuracy, parity), always one record at a time, as the device runs it: dynamic
quantisation takes its range over the batch, so a score must not depend on batch mates. The program gives gradients.
"""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from audits.bridge.graph import BridgeError, parse_graph
from audits.bridge.parity import Parity, ParityBounds, measure_parity
from audits.bridge.program import TorchProgram
from audits.bridge.tap import Tail, find_tap
from audits.class_scores import score_rows, settle_tail
from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel

Floats = npt.NDArray[np.float32]
_TOLD_BY = 64  # records by which the kind of the scores is told
_TINY = 1e-30  # below this a probability has no logarithm worth climbing


class WhiteBox:
    """White-box access to one model; close it, or use it in a ``with`` statement.

    Args:
        model: the bytes.
        records: real inputs, (N, ...): what the model says to them tells probabilities from logits where no softmax node does;
            None: the graph alone tells.

    Raises:
        BridgeError: not one float32 input, no class scores, or an operator without a translation.
        FormatError: the runtime refuses the model.
        UsageError: the records do not fit the model (``input_mismatch``).
    """

    def __init__(self, model: CheckedModel, *, records: Floats | None = None) -> None:
        self.model = model
        self.graph = parse_graph(model.data)
        self._input = _only_input(model)
        output = _score_output(model)
        self.tap = find_tap(self.graph, output=output)
        self._program = TorchProgram(self.graph, wanted=(output,))
        self._tapped = TorchProgram(self.graph, wanted=(self.tap.logits,))
        self._session: Session = open_session(model, threads=1)
        if records is not None:
            try:
                self._settle(records[:_TOLD_BY])
            except BaseException:
                self._session.close()
                raise

    def __enter__(self) -> WhiteBox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.close()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores before the tail, (N, C), differentiable with respect to ``x``."""
        logits = _rows(self._tapped(x)[0])
        return torch.log(logits.clamp_min(_TINY)) if self.tap.tail is Tail.PROBABILITIES else logits

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """What the file itself puts out, (N, C), rounding included, differentiable; masked where a softmax is quantised."""
        return _rows(self._program(x)[0])

    def probabilities(self, x: Floats) -> npt.NDArray[np.float64]:
        """Class probabilities of the shipped bytes, (N, C), each record alone through the runtime."""
        return self._to_probabilities(self.outputs(x))

    def outputs(self, x: Floats) -> Floats:
        """Raw score output of the shipped bytes, (N, C), each record alone through the runtime."""
        parts = [
            self._session.run({self._input: np.ascontiguousarray(x[index : index + 1])})[self.tap.output] for index in range(len(x))
        ]
        return score_rows(parts, where=self.tap.output).astype(np.float32)

    def parity(self, x: Floats, *, bounds: ParityBounds) -> Parity:
        """Bridge against runtime on the rows ``x``, at the real output."""
        with torch.no_grad():
            bridge = np.concatenate([self.scores(torch.from_numpy(x[i : i + 1])).numpy() for i in range(len(x))])
        return measure_parity(bridge, self.outputs(x), graph=self.graph, tap=self.tap, bounds=bounds)

    def _settle(self, records: Floats) -> None:
        rows = self.outputs(records).astype(np.float64)
        self.tap = replace(self.tap, tail=settle_tail(self.tap.tail, rows, quantum=self.tap.quantum, where=self.tap.output))

    def _to_probabilities(self, outputs: Floats) -> npt.NDArray[np.float64]:
        values = outputs.astype(np.float64)
        if self.tap.tail in {Tail.SOFTMAX, Tail.PROBABILITIES}:
            return values
        if self.tap.tail is Tail.NONE:
            values = values - values.max(axis=1, keepdims=True)
            values = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        return np.exp(values)


def _rows(scores: torch.Tensor) -> torch.Tensor:
    """(N, C) of (N, C, 1, ...)."""
    return scores.flatten(1) if scores.dim() > 2 else scores


def _only_input(model: CheckedModel) -> str:
    if len(model.inputs) != 1 or model.inputs[0].dtype != "float32":
        found = ", ".join(f"{spec.name} {spec.dtype}" for spec in model.inputs)[:120]
        raise BridgeError("not exactly one float32 input", code="bridge_inputs", where=str(model.digest), actual=found)
    return model.inputs[0].name


def _score_output(model: CheckedModel) -> str:
    if len(model.outputs) == 1:
        return model.outputs[0].name
    found = ", ".join(spec.name for spec in model.outputs)[:120]
    raise BridgeError("not exactly one output", code="bridge_scores", where=str(model.digest), actual=found)
