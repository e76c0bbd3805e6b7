"""Networks by other people, from the data folder; skipped where it is not set (docs/data.md)."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_client.bundle.counter import Counter
from device_client.bundle.path import BundlePath
from device_client.inference.walker import check_model
from packager.features import check_own
from packager.load import load_model
from packager.pack import PackRequest, PackResult, pack
from packager.recipe import LatencyPlan, Recipe

from .models import save_npz

FAST = replace(Recipe(), latency=LatencyPlan(rounds=0))


def packed(model: Path, data: str, folder: Path, recipe: Recipe = FAST) -> PackResult:
    return pack(PackRequest(str(model), data, BundlePath("real", "model", "1"), Counter(0, 1), folder / "bundle", recipe))


def test_the_keyword_spotter_keeps_its_accuracy_at_a_third_of_its_size(data_dir: Path, tmp_path: Path) -> None:
    found = np.load(data_dir / "kws-mfcc/kws01_mfcc_int8.npz")
    x = ((found["mfcc"].astype(np.float32) - 83) * np.float32(0.5847029))[..., None]
    result = packed(data_dir / "models-mlperf-tiny/kws.onnx", save_npz(tmp_path, x=x, y=found["label"]), tmp_path)
    variant = result.facts.shipped[0]
    assert variant.id == "int8-static"
    assert variant.size_bytes < 34_000
    assert variant.evaluation.drop.value <= 0.01
    assert result.facts.golden.worst_share >= 0.9


def test_an_old_network_whose_constants_are_inputs_is_packed(data_dir: Path, tmp_path: Path) -> None:
    x = np.frombuffer(gzip.decompress((data_dir / "mnist-test/t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    y = np.frombuffer(gzip.decompress((data_dir / "mnist-test/t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    data = save_npz(tmp_path, x=x.reshape(-1, 1, 28, 28)[:1500].astype(np.float32), y=y[:1500])
    result = packed(data_dir / "models-onnx/mnist_cnn_opset8.onnx", data, tmp_path)
    assert result.facts.shipped[0].id == "int8-static"
    assert result.facts.shipped[0].evaluation.estimate.value > 0.97
    assert any("opset 8" in note for note in result.facts.loaded.notes)


def test_a_network_without_labels_is_judged_by_agreement(data_dir: Path, tmp_path: Path) -> None:
    x = (np.random.default_rng(0).random((60, 32, 32, 3)) * 255).astype(np.float32)
    recipe = replace(FAST, task="classification")
    result = packed(data_dir / "models-mlperf-tiny/resnet8.onnx", save_npz(tmp_path, x=x), tmp_path, recipe)
    assert result.facts.metric == "agreement"
    assert result.facts.candidates[0].size_bytes < 90_000


def test_half_precision_weights_are_widened(data_dir: Path) -> None:
    loaded = load_model(str(data_dir / "models-onnx/squeezenet_fp16.onnx"), seed=0, example=dict)
    assert [(spec.name, spec.dtype) for spec in loaded.model.inputs] == [("data_0", "float32")]
    assert "float16 widened to float32" in loaded.notes
    assert check_model(loaded.model.data).opset >= 13


def test_a_speech_detector_with_state_and_control_flow_loads(data_dir: Path) -> None:
    rows = {
        "input": np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32),
        "state": np.zeros((2, 2, 1, 128), np.float32),
        "sr": np.array([16_000, 8_000]),
    }
    loaded = load_model(str(data_dir / "models-onnx/silero_vad_16k.onnx"), seed=0, example=lambda: rows)
    assert loaded.features == ("control-flow:If",)
    assert [spec.shape for spec in loaded.model.inputs] == [("batch", "sequence"), (2, "batch", 128), ()]
    assert len(loaded.model.data) < loaded.source_bytes


@pytest.mark.parametrize("name", ["micro_8k_2021-03-22", "micro_8k_2021-04-01", "vad_16k_op15_2025-11-06"])
def test_releases_with_branches_of_other_opsets_load(data_dir: Path, name: str) -> None:
    rows = {"input": np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)}
    prefix = "silero_model_" if name.startswith("micro") else "silero_"
    loaded = load_model(str(data_dir / f"delta-pairs/{prefix}{name}.onnx"), seed=0, example=lambda: rows)
    assert check_own(loaded.model.data).opset >= 13


def test_a_detector_of_opset_nine_loads(data_dir: Path) -> None:
    loaded = load_model(str(data_dir / "models-onnx/ultraface_rfb320.onnx"), seed=0, example=dict)
    assert check_model(loaded.model.data).opset >= 13
    assert len(loaded.model.data) < loaded.source_bytes
