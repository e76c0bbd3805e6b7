"""A recurrent teacher, a student of 1/50 of it, and how both are trained.

Sensor noise hides the trend, so both average over a few cycles first; a convolutional teacher of the same size without that
was worse on held-out training engines. Plans were chosen there, with windows weighted as if those engines were cut short as
the test engines are; the test engines chose nothing.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from examples.factory.engines import WINDOW
from examples.training import Net, Plan

SENSORS = 15
_TEACHER_WIDTH, _TEACHER_POOL = 91, 3
_STUDENT_WIDTH, _STUDENT_POOL = 8, 5


class _Recurrent(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Means of a few cycles, a GRU over them, its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool1d(_TEACHER_POOL)
        self.gru = nn.GRU(SENSORS, _TEACHER_WIDTH, batch_first=True)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Any) -> Any:
        """(N, sensors, cycles) to (N, width)."""
        return self.drop(self.gru(self.pool(x).transpose(1, 2))[0][:, -1])


def teacher() -> Net:
    """A GRU of 91 units over means of three cycles."""
    return Net(_Recurrent(), width=_TEACHER_WIDTH, classes=2, with_aid=True)


def student() -> Net:
    """Means of five cycles, eight mixtures of sensors, one small layer."""
    steps = WINDOW // _STUDENT_POOL
    layers = [nn.AvgPool1d(_STUDENT_POOL), nn.Conv1d(SENSORS, _STUDENT_WIDTH, 1), nn.ReLU(), nn.Flatten()]
    layers += [nn.Linear(_STUDENT_WIDTH * steps, _STUDENT_WIDTH), nn.ReLU()]
    return Net(nn.Sequential(*layers), width=_STUDENT_WIDTH, classes=2, with_aid=True)


TEACHER_PLAN = Plan(epochs=8, learning_rate=3e-3, batch_rows=128, weight_decay=1e-4, aid_weight=5.0)
STUDENT_PLAN = Plan(epochs=10, learning_rate=1e-2, batch_rows=128, weight_decay=1e-4, aid_weight=5.0)
