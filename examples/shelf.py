"""Trained networks kept in a folder that the user names, so that a second run does not train again.

The name of a file is the digest of everything that its weights follow from: data, plan, shape, seed and teacher. Weights are
safetensors, never pickles. Also exports: the ONNX file is what is measured and packed.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from examples.training import Kind, Net, Plan, Rows, train
from packager.export import export_module
from packager.load import load_model


@dataclass(frozen=True)
class Shelf:
    """The folder."""

    folder: Path

    def trained(
        self,
        name: str,
        make: Callable[[], Net],
        rows: Rows,
        plan: Plan,
        *,
        seed: int,
        kind: Kind = "plain",
        teacher: Net | None = None,
    ) -> Net:
        """The network of that name, from the folder or trained now; the arguments are those of ``training.train``."""
        digest = hashlib.sha256(f"{name}|{seed}|{kind}|{_told(plan)}".encode())
        for array in (rows.x, rows.y, rows.aid):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        for part in (make(), *([] if teacher is None else [teacher])):
            digest.update("".join(f"{key}{tuple(value.shape)}" for key, value in part.state_dict().items()).encode())
        if teacher is not None:
            for value in teacher.state_dict().values():
                digest.update(value.numpy().tobytes())
        path = self.folder / "nets" / f"{name}-{seed}-{digest.hexdigest()[:16]}.safetensors"
        if path.is_file():
            net = make()
            net.load_state_dict(load_file(path))
            net.eval()
            return net
        net = train(make, rows, plan, seed=seed, kind=kind, teacher=teacher)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
        return net

    def exported(self, name: str, net: Net, x: NDArray[np.float32]) -> Path:
        """The network as an ONNX file in the packager's normal form: the FP32 that everything is compared with.

        Args:
            name: of the file.
            net: what to export.
            x: a few rows, (N, channels, steps).
        """

        def example() -> dict[str, NDArray[Any]]:
            return {"x": x[:2]}

        path = self.folder / "models" / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*variable length with GRU.*")  # the export is compared at two batch sizes
            path.write_bytes(export_module(net.shipped, where=name, seed=0, example=example))
        path.write_bytes(load_model(str(path), seed=0, example=example).model.data)
        return path


def _told(plan: Plan) -> str:
    told = asdict(plan)
    told["augment"] = getattr(plan.augment, "__qualname__", None)
    return repr(sorted(told.items()))
