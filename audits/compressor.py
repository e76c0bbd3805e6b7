"""The seam to compression: controls go through the same compression as the model that is audited.

Audits never import the packager. The front door injects a ``Compressor``; the default runs ``sealift pack --recipe`` in a
subprocess and reads the bundle that it made through the device's verifier, like any other bundle.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from audits.data import Floats, Integers
from audits.targets import load_bundle
from device_client.errors import SealiftError
from device_client.inference.walker import CheckedModel

_TIMEOUT_S = 600


class Compressor(Protocol):
    """Turns an ONNX model into its compressed variants."""

    def compress(self, model: bytes, *, x: Floats, y: Integers) -> Mapping[str, CheckedModel]:
        """The variants by id.

        Args:
            model: ONNX bytes with one input.
            x: records for calibration and evaluation, (N, ...).
            y: their labels, (N,).
        """


class PackCompressor:
    """``sealift pack`` in a subprocess, in a temporary directory that is removed afterwards.

    Args:
        recipe: the recipe of the audited bundle.
        timeout_s: seconds for one model.
    """

    def __init__(self, recipe: Path, *, timeout_s: int = _TIMEOUT_S) -> None:
        self._recipe = recipe.resolve()
        self._timeout_s = timeout_s

    def compress(self, model: bytes, *, x: Floats, y: Integers) -> Mapping[str, CheckedModel]:
        """See ``Compressor``.

        Raises:
            SealiftError: the packer failed or ran out of time (``compressor_failed``).
        """
        with tempfile.TemporaryDirectory(prefix="sealift-audit-") as folder:
            work = Path(folder)
            (work / "model.onnx").write_bytes(model)
            np.savez(work / "data.npz", x=x, y=y)
            command = [sys.executable, "-m", "sealift", "pack", str(work / "model.onnx"), "--data", str(work / "data.npz")]
            command += ["--recipe", str(self._recipe), "--line", "audit", "--name", "control", "--version", "0", "--out"]
            self._run([*command, str(work / "bundle")])
            return {variant.id: variant.model for variant in load_bundle(work / "bundle").variants}

    def _run(self, command: list[str]) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self._timeout_s, check=False)
        except subprocess.TimeoutExpired as e:
            raise SealiftError(
                "compressing a control took too long",
                code="compressor_failed",
                where=str(self._recipe),
                expected=f"{self._timeout_s} s",
            ) from e
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or done.stderr.strip().splitlines()
            raise SealiftError(
                "compressing a control failed",
                code="compressor_failed",
                where=str(self._recipe),
                actual=lines[-1].removeprefix("error: ")[:300] if lines else "no message",
                hint="give the recipe with which the bundle was packed; `sealift pack` says more about it",
            )
