"""What a black-box attacker has: the shipped bytes behind the device's own session, and a count of the questions asked.

No graph is translated here, so a model that the bridge does not know can still be attacked. Answers are those of one
record at a time, as on a device. A batch is used only where that changes nothing: the first dimension is free, no operator
takes its range from the batch, and a probe gave the same numbers both ways. Everything else is asked row by row.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np
import numpy.typing as npt

from audits.bridge.graph import BridgeError, parse_graph
from audits.bridge.tap import Tail, find_tap
from audits.class_scores import score_rows, settle_tail
from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
FLOOR = 1e-4  # a probability below this says no more: it is under half a step of an eight-bit softmax
_BATCH = 256  # rows at a time where batches are allowed
_PROBE = 8
_SAME = 1e-6  # relative to the largest output; sums in another order differ by less


class Oracle:
    """Asks one model; close it, or use it in a ``with`` statement.

    Args:
        model: the bytes.
        probe: (...), a record's shape with plausible values, to see whether a batch changes an answer.

    Attributes:
        asked: rows answered so far, the probe not counted.
        batched: whether batches are used.
        classes: number of scores.

    Raises:
        BridgeError: not one float32 input and one output of class scores.
        FormatError: the runtime refuses the model.
    """

    def __init__(self, model: CheckedModel, *, probe: Floats) -> None:
        self._input, self._output = _names(model)
        graph = parse_graph(model.data)
        tap = find_tap(graph, output=self._output)
        self._session: Session = open_session(model, threads=1)
        self.asked = 0
        self.batched = False
        try:
            rows = _probe_rows(probe)
            single = self._run(rows)
            self._tail = settle_tail(tap.tail, single.astype(np.float64), quantum=tap.quantum, where=self._output)
            self.classes = single.shape[1]
            self.batched = (
                graph.batch is None and not any("Dynamic" in node.op for node in graph.nodes) and self._agrees(rows, single)
            )
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.close()

    def probabilities(self, x: Floats) -> Doubles:
        """Class probabilities of the rows ``x`` (N, ...), (N, C), each as if it had been asked alone."""
        self.asked += len(x)
        values = self._run(x).astype(np.float64)
        if self._tail in {Tail.SOFTMAX, Tail.PROBABILITIES}:
            return values
        if self._tail is Tail.NONE:
            values = values - values.max(axis=1, keepdims=True)
            values = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        return np.exp(values)

    def labels(self, x: Floats) -> Integers:
        """The winning class of every row, (N,); all that a label-only attacker sees."""
        self.asked += len(x)
        winners: Integers = self._run(x).argmax(axis=1)
        return winners

    def _run(self, x: Floats) -> Floats:
        step = _BATCH if self.batched else 1
        parts = [
            self._session.run({self._input: np.ascontiguousarray(x[begin : begin + step])})[self._output]
            for begin in range(0, len(x), step)
        ]
        outputs = score_rows(parts, where=self._output)
        if len(outputs) != len(x):
            raise BridgeError(
                "not one row of class scores for each record", code="bridge_scores", where=self._output, actual=str(outputs.shape)
            )
        return outputs.astype(np.float32)

    def _agrees(self, rows: Floats, single: Floats) -> bool:
        together = self._session.run({self._input: rows})[self._output]
        if together.size != single.size or len(together) != len(single):
            return False
        together = together.reshape(single.shape)
        return bool(np.abs(together - single).max() <= _SAME * max(1.0, float(np.abs(single).max())))


def _names(model: CheckedModel) -> tuple[str, str]:
    if len(model.inputs) != 1 or model.inputs[0].dtype != "float32":
        found = ", ".join(f"{spec.name} {spec.dtype}" for spec in model.inputs)[:120]
        raise BridgeError("not exactly one float32 input", code="bridge_inputs", where=str(model.digest), actual=found)
    if len(model.outputs) != 1:
        found = ", ".join(spec.name for spec in model.outputs)[:120]
        raise BridgeError("not exactly one output", code="bridge_scores", where=str(model.digest), actual=found)
    return model.inputs[0].name, model.outputs[0].name


def _probe_rows(probe: Floats) -> Floats:
    """The probe at growing contrast, so that a range taken over the batch would show."""
    scales = np.linspace(0.1, 1.0, _PROBE, dtype=np.float32).reshape(-1, *[1] * probe.ndim)
    return np.ascontiguousarray(probe[None] * scales, dtype=np.float32)
