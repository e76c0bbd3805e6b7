"""The seam to training: what shadow models, twins and fixes are trained with.

Audits never train a model of their own choosing: the auditor names the function that trained the model under audit. It runs in a
child of its own, without keys and without network.
"""

from __future__ import annotations

from typing import Protocol

from audits.data import Floats, Integers


class Trainer(Protocol):
    """Trains a model on given records, the way the audited one was."""

    def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
        """ONNX bytes of a model with the audited one's input and output.

        Args:
            x: records, (N, ...).
            y: class indices, (N,).
            seed: of everything random in the training.
        """
