"""The seam to compression: controls go through the same compression as the model that is audited.

Audits never import the packager. The front door injects a ``Compressor``; the default runs ``sealift pack --recipe`` in a
subprocess and reads the bundle that it made through the device's verifier, like any other bundle.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from audits.data import Floats, Integers
from audits.parallel import cores, run_all
from audits.targets import load_bundle
from device_client.bundle.digest import Digest
from device_client.errors import SealiftError, UsageError
from device_client.inference.walker import CheckedModel

_TIMEOUT_S = 600
_PACK_ALL = """
import json, sys
from device_client.console import run_main
import sealift
for call in json.load(sys.stdin):
    status = run_main(sealift.cli, prog_name="sealift", args=call)
    if status:
        sys.exit(status)
"""


class Compressor(Protocol):
    """Turns an ONNX model into its compressed variants."""

    def compress(self, model: bytes, *, x: Floats, y: Integers) -> Mapping[str, CheckedModel]:
        """The variants by id.

        Args:
            model: ONNX bytes with one input.
            x: records for calibration and evaluation, (N, ...).
            y: their labels, (N,).
        """


@runtime_checkable
class ManyCompressor(Protocol):
    """A compressor that is better asked for many models at once."""

    def compress_many(self, models: Sequence[bytes], *, x: Floats, y: Integers) -> tuple[Mapping[str, CheckedModel], ...]:
        """The variants of each model, in order."""


def compress_all(
    compressor: Compressor, models: Sequence[bytes], *, x: Floats, y: Integers
) -> tuple[Mapping[str, CheckedModel], ...]:
    """Compresses every model, in one go where the compressor can."""
    if isinstance(compressor, ManyCompressor):
        return compressor.compress_many(models, x=x, y=y)
    return tuple(compressor.compress(model, x=x, y=y) for model in models)


class PackCompressor:
    """``sealift pack`` in a subprocess, in a temporary directory that is removed afterwards.

    Many models are packed by one subprocess for each core, one after another: starting the packager costs seconds, a small model
    less.

    Args:
        recipe: the recipe of the audited bundle.
        timeout_s: seconds for one model.

    Attributes:
        digest: of the recipe's bytes.

    Raises:
        UsageError: the recipe cannot be read (``recipe_missing``).
    """

    def __init__(self, recipe: Path, *, timeout_s: int = _TIMEOUT_S) -> None:
        try:
            self.digest = Digest.of(recipe.read_bytes())
        except OSError as e:
            raise UsageError(
                "cannot read the recipe",
                code="recipe_missing",
                where=str(recipe),
                actual=e.strerror,
                hint="give the recipe of the bundle, or leave it out",
            ) from e
        self._recipe = recipe.resolve()
        self._timeout_s = timeout_s

    def compress(self, model: bytes, *, x: Floats, y: Integers) -> Mapping[str, CheckedModel]:
        """See ``Compressor``.

        Raises:
            SealiftError: the packer failed or ran out of time (``compressor_failed``).
        """
        return self.compress_many([model], x=x, y=y)[0]

    def compress_many(self, models: Sequence[bytes], *, x: Floats, y: Integers) -> tuple[Mapping[str, CheckedModel], ...]:
        """See ``ManyCompressor``.

        Raises:
            SealiftError: as ``compress``; the first model that fails ends all.
        """
        with tempfile.TemporaryDirectory(prefix="sealift-audit-") as folder:
            work = Path(folder)
            np.savez(work / "data.npz", x=x, y=y)
            calls = []
            for index, model in enumerate(models):
                (work / f"{index}.onnx").write_bytes(model)
                files = [str(work / f"{index}.onnx"), "--data", str(work / "data.npz"), "--recipe", str(self._recipe)]
                names = ["--line", "audit", "--name", "control", "--version", "0", "--out", str(work / f"bundle-{index}")]
                calls.append(["pack", *files, *names])
            share = -(-len(calls) // max(1, cores()))
            run_all([partial(self._run, calls[start : start + share]) for start in range(0, len(calls), share)])
            bundles = [load_bundle(work / f"bundle-{index}") for index in range(len(models))]
        return tuple({variant.id: variant.model for variant in bundle.variants} for bundle in bundles)

    def _run(self, calls: list[list[str]]) -> None:
        limit_s = self._timeout_s * len(calls)
        try:
            done = subprocess.run(
                [sys.executable, "-c", _PACK_ALL],
                input=json.dumps(calls),
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise SealiftError(
                "compressing a control took too long",
                code="compressor_failed",
                where=str(self._recipe),
                expected=f"{limit_s} s",
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
