"""What networks by other people are judged by when nobody says so; skipped where their data is not there (docs/data.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.data import Dataset
from packager.evaluate import Judge, make_judge, run_rows
from packager.load import LoadedModel, load_model
from packager.parts import make_parts
from packager.recipe import DataPlan, Recipe


def loaded(path: Path) -> LoadedModel:
    return load_model(str(path), seed=0, example=dict)


def on_noise(path: Path) -> Judge:
    model = loaded(path).model
    parts = make_parts(None, model, Recipe(data=DataPlan(synthetic_rows=60)), where="")
    return make_judge(run_rows(model, parts.test), parts.test, task="auto", seed=0, where="noise")


@pytest.mark.parametrize(
    ("model", "metric"),
    [
        pytest.param("models-mlperf-tiny/resnet8.onnx", "agreement", id="a softmax over classes"),
        pytest.param("models-mlperf-tiny/ad01.onnx", "fidelity", id="an autoencoder"),
        pytest.param("models-onnx/mnist_cnn_opset8.onnx", "agreement", id="logits of one row at a time"),
    ],
)
def test_without_data_and_labels_the_metric_suits_the_network(data_dir: Path, model: str, metric: str) -> None:
    judge = on_noise(data_dir / model)
    assert (judge.task, judge.metric.name) == ("none", metric)
    assert len(judge.test) >= 30


def faces(data_dir: Path) -> Any:
    """Each face upright on a grey image, as the detector gets it: (20, 3, 240, 320)."""
    images = np.load(data_dir / "faces-orl/orl_faces.npz")["images"][::20].astype(np.float32)
    canvas = np.full((len(images), 240, 320), 100.0, dtype=np.float32)
    canvas[:, 60:172, 100:192] = images * (255.0 if images.max() <= 1 else 1.0)
    return np.repeat(((canvas - 127) / 128)[:, np.newaxis], 3, axis=1)


def test_a_face_detector_is_judged_by_what_it_finds(data_dir: Path) -> None:
    model = loaded(data_dir / "models-onnx/ultraface_rfb320.onnx").model
    data = Dataset({model.inputs[0].name: faces(data_dir)}, None, None, None, "faces")
    reference = run_rows(model, data)
    judge = make_judge(reference, data, task="auto", seed=0, where="faces")
    assert (judge.task, judge.metric.name) == ("detection", "detection-agreement")
    assert judge.point({**reference, "boxes": reference["boxes"] + np.float32(0.01)}) == 0.0
    assert judge.point({**reference, "boxes": reference["boxes"] + np.float32(0.2)}) > 0.9
    assert judge.point({**reference, "scores": reference["scores"][..., ::-1]}) > 0.9
