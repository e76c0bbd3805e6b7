"""A model opened for attack: the runtime on the exact bytes, and the same bytes as a differentiable program.

The runtime is the judge (confidence, accuracy, parity), always one record at a time, as the device runs it: dynamic
quantisation takes its range over the batch, so a score must not depend on batch mates. The program gives gradients.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from audits.bridge.graph import BridgeError, parse_graph
from audits.bridge.parity import Parity, ParityBounds, measure_parity
from audits.bridge.program import TorchProgram
from audits.bridge.tap import Tail, find_tap
from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel

Floats = npt.NDArray[np.float32]


class WhiteBox:
    """White-box access to one model; close it, or use it in a ``with`` statement.

    Raises:
        BridgeError: not one float32 input, no class scores, or an operator without a translation.
        FormatError: the runtime refuses the model.
    """

    def __init__(self, model: CheckedModel) -> None:
        self.model = model
        self.graph = parse_graph(model.data)
        self._input = _only_input(model)
        output = _score_output(model)
        self.tap = find_tap(self.graph, output=output)
        self._program = TorchProgram(self.graph, wanted=(output,))
        self._tapped = TorchProgram(self.graph, wanted=(self.tap.logits,))
        self._session: Session = open_session(model, threads=1)

    def __enter__(self) -> WhiteBox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.close()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores before the tail, (N, C), differentiable with respect to ``x``."""
        logits: torch.Tensor = self._tapped(x)[0]
        return logits

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """What the file itself puts out, (N, C), rounding included, differentiable; masked where a softmax is quantised."""
        scores: torch.Tensor = self._program(x)[0]
        return scores

    def probabilities(self, x: Floats) -> npt.NDArray[np.float64]:
        """Class probabilities of the shipped bytes, (N, C), each record alone through the runtime."""
        return self._to_probabilities(self.outputs(x))

    def outputs(self, x: Floats) -> Floats:
        """Raw score output of the shipped bytes, (N, C), each record alone through the runtime."""
        rows: list[npt.NDArray[Any]] = [
            self._session.run({self._input: np.ascontiguousarray(x[index : index + 1])})[self.tap.output] for index in range(len(x))
        ]
        outputs = np.concatenate(rows).astype(np.float32)
        if outputs.ndim != 2 or outputs.shape[0] != len(x) or outputs.shape[1] < 2:
            raise BridgeError(
                "the output is not one score per class", code="bridge_scores", where=self.tap.output, actual=str(outputs.shape)
            )
        return outputs

    def parity(self, x: Floats, *, bounds: ParityBounds) -> Parity:
        """Bridge against runtime on the rows ``x``, at the real output."""
        with torch.no_grad():
            bridge = np.concatenate([self._program(torch.from_numpy(x[i : i + 1]))[0].numpy() for i in range(len(x))])
        return measure_parity(bridge, self.outputs(x), graph=self.graph, tap=self.tap, bounds=bounds)

    def _to_probabilities(self, outputs: Floats) -> npt.NDArray[np.float64]:
        values = outputs.astype(np.float64)
        if self.tap.tail is Tail.SOFTMAX:
            return values
        if self.tap.tail is Tail.NONE:
            values = values - values.max(axis=1, keepdims=True)
            values = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        return np.exp(values)


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
