"""The models of C1 to C8, each with rows as ``sealift pack`` takes them: other people's networks and data under ``SEALIFT_DATA``.

What is real: spoken words (kws), digits (mnist), photographs (resnet8, squeezenet, ultraface with faces). What is made here, for
want of data: ad01's spectra and silero's sound; those two only show fidelity, size and time. Parts never overlap: other clips,
digits, regions of a photograph, or other people. Each set is divided the same way on every run.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
_PATCH, _STRIDE = 32, 20


@dataclass(frozen=True)
class Case:
    """One model. ``rows``: its arrays, from the folder of all data. ``task``: of the recipe; ``auto`` leaves it to the data.

    ``judged``: whether labels or natural inputs make its metric mean something (C1); ``third_party``: made by other people.
    """

    id: str
    model: str
    rows: Callable[[Path], Arrays]
    task: str = "auto"
    judged: bool = False
    third_party: bool = True


def kws(folder: Path) -> Arrays:
    """1000 clips: every fifth calibrates or validates, the other 800 test; of the former, those that equal a test clip go."""
    with np.load(folder / "kws-mfcc" / "kws01_mfcc_int8.npz", allow_pickle=False) as found:
        x = ((found["mfcc"].astype(np.float32) - 83) * np.float32(0.5847029))[..., None]
        y = found["label"].astype(np.int64)
    split = np.full(len(y), "test", dtype="<U11")
    split[0::10], split[5::10] = "calibration", "validation"
    keep = without_copies(x, split)
    return {"input": x[keep], "y": y[keep], "split": split[keep]}


def mnist(folder: Path) -> Arrays:
    """Digits 500 to 3499 test, as on the research page; of those before, 200 calibrate and 300 validate."""
    where = folder / "mnist-test"
    images = np.frombuffer(gzip.decompress((where / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((where / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    x = images.reshape(-1, 1, 28, 28)[:3500].astype(np.float32)
    return {"Input3": x, "y": labels[:3500].astype(np.int64), "split": _parts(200, 300, 3000)}


def resnet8(folder: Path) -> Arrays:
    """Patches of 32 by 32 of two photographs; strips of columns divide the parts, so that no pixel is in two of them."""
    del folder
    found: dict[str, list[NDArray[Any]]] = {"calibration": [], "validation": [], "test": []}
    for photograph in photographs():
        for part, left, right in (("calibration", 0, 132), ("validation", 132, 204), ("test", 204, photograph.shape[1])):
            found[part] += patches(photograph[:, left:right], size=_PATCH, stride=_STRIDE)
    return _stack("input", found)


def squeezenet(folder: Path) -> Arrays:
    """Crops of 224 by 224, scaled to mean 0 as the network wants; one photograph tests, the other does the rest."""
    del folder
    china, flower = photographs()
    centre = np.array([103.939, 116.779, 123.68], dtype=np.float32)
    crops = {
        "calibration": patches(flower[:, :288], size=224, stride=32)[:20],
        "validation": patches(flower[:, 288:], size=224, stride=64)[:12],
        "test": patches(china, size=224, stride=40),
    }
    found = {
        part: [np.ascontiguousarray((crop[..., ::-1] - centre).transpose(2, 0, 1)) for crop in some] for part, some in crops.items()
    }
    arrays = _stack("data_0", found)
    return {**arrays, "data_0": arrays["data_0"].astype(np.float16)}


def ultraface(folder: Path) -> Arrays:
    """Pictures of 240 by 320: crops of a photograph with four faces on each; people are in one part only."""
    with np.load(folder / "faces-orl" / "orl_faces.npz", allow_pickle=False) as orl:
        faces, person = orl["images"].astype(np.float32), orl["subject"].astype(np.int64)
    person = person - person.min()
    rng = np.random.default_rng(0)
    china, flower = photographs()
    found: dict[str, list[NDArray[Any]]] = {}
    for part, photograph, people, count in (
        ("calibration", flower[:, :320], (0, 8), 16),
        ("validation", flower[:, 320:], (8, 14), 12),
        ("test", china, (14, 40), 60),
    ):
        own = faces[(person >= people[0]) & (person < people[1])]
        found[part] = [_with_faces(photograph, own, rng) for _ in range(count)]
    return _stack("input", found)


def ad01(folder: Path) -> Arrays:
    """Made here: five frames of a falling spectrum of 128 bands in decibels, with drifting lines of a machine."""
    del folder
    rng = np.random.default_rng(0)
    rows, bands = 700, np.arange(128)
    floor = -20 - 25 * bands / 127 + 3 * rng.standard_normal((rows, 1, 1))
    lines = np.zeros((rows, 1, 128))
    for _ in range(4):
        lines += rng.uniform(5, 25, (rows, 1, 1)) * np.exp(-((bands - rng.uniform(0, 127, (rows, 1, 1))) ** 2) / 18)
    x = (floor + lines + 2 * rng.standard_normal((rows, 5, 128))).reshape(rows, 640).astype(np.float32)
    return {"input": x, "split": _parts(100, 100, 500)}


def silero(folder: Path) -> Arrays:
    """Made here: 576 samples of tones that come and go in noise; the state starts at zero."""
    del folder
    rng = np.random.default_rng(0)
    rows, steps = 360, np.arange(576) / 16000
    pitch, loud = rng.uniform(90, 300, (rows, 1)), rng.uniform(0, 0.3, (rows, 1)) * rng.integers(0, 2, (rows, 1))
    sound = sum(loud / order * np.sin(2 * np.pi * order * pitch * steps) for order in (1, 2, 3, 5))
    x = (sound + 0.01 * rng.standard_normal((rows, 576))).astype(np.float32)
    state = (0.1 * rng.standard_normal((rows, 2, 1, 128))).astype(np.float32)
    return {"input": x, "state": state, "sr": np.full(rows, 16000, dtype=np.int64), "split": _parts(60, 60, 240)}


CASES = (
    Case("kws", "models-mlperf-tiny/kws.onnx", kws, judged=True),
    Case("mnist", "models-onnx/mnist_cnn_opset8.onnx", mnist, judged=True),
    Case("resnet8", "models-mlperf-tiny/resnet8.onnx", resnet8, task="classification"),
    Case("ad01", "models-mlperf-tiny/ad01.onnx", ad01),
    Case("ultraface", "models-onnx/ultraface_rfb320.onnx", ultraface, task="detection"),
    Case("squeezenet", "models-onnx/squeezenet_fp16.onnx", squeezenet),
    Case("silero", "models-onnx/silero_vad_16k.onnx", silero),
)


def photographs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two that scikit-learn ships: a temple and a flower, (427, 640, 3), 0 to 255."""
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return china.astype(np.float32), flower.astype(np.float32)


def patches(image: NDArray[np.float32], *, size: int, stride: int) -> list[NDArray[np.float32]]:
    """Square pieces, row by row; neighbours overlap where ``stride`` is below ``size``."""
    height, width = image.shape[:2]
    return [
        image[top : top + size, left : left + size]
        for top in range(0, height - size + 1, stride)
        for left in range(0, width - size + 1, stride)
    ]


def without_copies(x: NDArray[Any], split: NDArray[np.str_]) -> NDArray[np.bool_]:
    """False for rows of a part that are in an earlier one, test rows first: the packager refuses a row in two parts."""
    rows = [row.tobytes() for row in x]
    keep = np.ones(len(rows), dtype=bool)
    seen: set[bytes] = set()
    for part in ("test", "validation", "calibration"):
        members = np.flatnonzero(split == part)
        keep[members] = [rows[member] not in seen for member in members]
        seen |= {rows[member] for member in members}
    return keep


def _with_faces(photograph: NDArray[np.float32], faces: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A crop with four faces, as (3, 240, 320) in [-1, 1]."""
    top, left = int(rng.integers(0, photograph.shape[0] - 239)), int(rng.integers(0, photograph.shape[1] - 319))
    picture = photograph[top : top + 240, left : left + 320].copy()
    for corner in ((4, 20), (4, 190), (124, 40), (124, 210)):
        face = faces[int(rng.integers(0, len(faces)))]
        picture[corner[0] : corner[0] + 112, corner[1] : corner[1] + 92] = face[..., None]
    return np.ascontiguousarray(((picture - 127) / 128).transpose(2, 0, 1))


def _stack(name: str, found: dict[str, list[NDArray[Any]]]) -> Arrays:
    return {
        name: np.concatenate([np.stack(rows) for rows in found.values()]).astype(np.float32),
        "split": np.concatenate([np.full(len(rows), part) for part, rows in found.items()]),
    }


def _parts(calibration: int, validation: int, test: int) -> NDArray[np.str_]:
    return np.array(["calibration"] * calibration + ["validation"] * validation + ["test"] * test)
