"""The demo's device, asked through its own commands only."""

from __future__ import annotations

import numpy as np

from demo.names import LINE, MODEL
from demo.processes import Outcome, Workshop


class DemoDevice:
    """The device in the folder ``device`` of the workshop."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    def poll(self) -> Outcome:
        """One poll; a refusal is an answer."""
        return self._shop.run("device poll --dir device", refusal_allowed=True)

    def active_version(self) -> str:
        """The version that runs now."""
        answer = self._shop.run("device status --dir device").answer
        version: str = answer["models"][f"{LINE}/{MODEL}"]["active"]["version"]
        return version

    def accuracy(self) -> float:
        """Share of the sample digits that the active model gets right, in [0, 1]."""
        self._shop.run(f"device infer --dir device --model {LINE}/{MODEL} --input samples.npz --output outputs.npz")
        folder = self._shop.folder
        with np.load(folder / "outputs.npz", allow_pickle=False) as outputs:
            (scores,) = (outputs[name] for name in outputs.files)
        with np.load(folder / "labels.npz", allow_pickle=False) as labels:
            return float((scores.argmax(axis=1) == labels["y"]).mean())
