"""The last step of each case study: the real ``sealift pack`` as a process, and the bytes that it sealed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.bundle.contract import Requires
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.verified import verify_bundle
from device_client.install.layer_decoder import read_model

ROOT = Path(__file__).resolve().parents[1]
_PACK_TIMEOUT_S = 900


@dataclass(frozen=True)
class Packed:
    """One bundle.

    ``answer``: what the command printed. ``model``: the bytes that the device's runtime gets, of the first variant.
    ``stored_bytes``: its layer as it lies in the bundle, encoded where that saves. ``requires``: what it needs of a device.
    """

    bundle: Path
    answer: dict[str, Any]
    model: bytes
    stored_bytes: int
    requires: Requires


def pack(model: Path, data: Path, bundle: Path, *, name: str, recipe: str = "") -> Packed:
    """Runs ``sealift pack`` and reads what it made; an older bundle of that name goes.

    Args:
        model: FP32 ONNX file.
        data: ``.npz`` with inputs, ``y``, ``split``.
        bundle: folder to write.
        name: of the model within the line ``examples``.
        recipe: TOML; empty for the default.

    Raises:
        RuntimeError: the command failed; with its own message.
    """
    shutil.rmtree(bundle, ignore_errors=True)
    for beside in bundle.parent.glob(f"{bundle.name}.*"):
        beside.unlink()
    bundle.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sealift", "pack", str(model), "--data", str(data), "--out", str(bundle), "--json"]
    command += ["--line", "examples", "--name", name, "--version", "1"]
    if recipe:
        path = bundle.with_name(f"{bundle.name}.toml")
        path.write_text(recipe, encoding="utf-8")
        command += ["--recipe", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PACK_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"sealift pack failed: {done.stderr.strip()[-1000:]}")
    return read_packed(bundle, json.loads(done.stdout))


def read_packed(bundle: Path, answer: dict[str, Any]) -> Packed:
    """The first variant of a bundle, verified."""
    layout = LayoutDirectory(bundle)
    named = layout.manifest_descriptor()
    verified = verify_bundle(layout, named.digest, manifest_size=named.size, closed=True)
    variant = verified.contract.variants[0]
    layer = verified.manifest.layer(variant.layer)
    model = read_model(layout, verified.manifest, variant)
    return Packed(bundle, answer, model, layer.size, variant.requires)


def write_rows(path: Path, **arrays: NDArray[Any]) -> Path:
    """DATA for the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, allow_pickle=False, **arrays)
    return path
