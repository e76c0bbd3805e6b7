"""``device_client.open_model``: a model by its name, with every check of the load path, and no weight on who does not use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device_client import open_model
from device_client.bundle import Digest, ModelPath
from device_client.errors import FormatError, IntegrityError, StateError, UsageError
from device_client.inference import model as model_module
from device_client.inference import walker
from device_client.inference.by_name import full_name
from device_client.install.config import DeviceConfig
from tests.unit.device.world import World
from tests.unit.inference import models

X = np.array([[1, 2, 3]], np.float32)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "device")
    made.install("1.0.0", counter=1, scale=2.0)
    return made


def test_a_model_opens_by_its_short_or_its_full_name_from_the_argument_or_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.device.folder.path
    monkeypatch.delenv("SEALIFT_DEVICE_DIR", raising=False)
    with pytest.raises(UsageError) as caught:
        open_model("ocr")
    assert caught.value.code == "device_dir"
    with open_model("ocr", device=folder) as model:
        np.testing.assert_array_equal(model.run({"x": X})["y"], 2 * X)
        assert model.deployment.version == "1.0.0"
    monkeypatch.setenv("SEALIFT_DEVICE_DIR", str(folder))
    with open_model("digits/ocr") as model:
        np.testing.assert_array_equal(model.run({"x": X})["y"], 2 * X)


def test_a_name_that_means_no_model_or_more_than_one_is_refused() -> None:
    models_ = tuple(ModelPath.parse(name) for name in ("ward/ecg", "home/ecg", "home/eeg"))
    config = DeviceConfig("https://example.org", models_, Digest.of(b""))
    assert full_name("eeg", config) == models_[2]
    assert full_name("home/ecg", config) == models_[1]
    for name in ("ecg", "spo2", "", "../ecg", "home/"):
        with pytest.raises(UsageError) as caught:
            full_name(name, config)
        assert caught.value.code == "model_unknown"


def test_without_a_device_or_a_model_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        open_model("ocr", device=tmp_path / "nowhere")
    assert caught.value.code == "state_missing"
    with pytest.raises(StateError) as caught:
        open_model("ocr", device=World(tmp_path / "new").device.folder.path)
    assert caught.value.code == "not_installed"


def test_what_the_store_hashed_is_not_hashed_again_and_is_what_the_runtime_gets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walker, "Digest", SimpleNamespace(of=lambda _: pytest.fail("a second hash")))
    read: list[bytes] = []
    real = model_module.BlobStore.read

    def noting(store: model_module.BlobStore, digest: Digest) -> bytes:
        read.append(real(store, digest))
        return read[-1]

    monkeypatch.setattr(model_module.BlobStore, "read", noting)
    with open_model("ocr", device=world.device.folder.path) as model:
        assert model._session.model.data is read[-1]
        assert Digest.of(read[-1]) == model.deployment.variant_digest == model._session.model.digest


def test_bytes_that_are_not_the_contracts_do_not_start(world: World) -> None:
    installed = model_module.find_installed(world.device.folder, ModelPath("digits", "ocr"))
    other = models.linear(scale=9.0).SerializeToString()
    with pytest.raises(IntegrityError) as caught:
        model_module.start_model(installed, other)
    assert caught.value.code == "blob_digest_mismatch"


def test_the_evidence_is_asked_for_before_anything_of_the_model_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FormatError("no evidence", code="evidence")

    monkeypatch.setattr(model_module, "verify_installed", refuse)
    monkeypatch.setattr(model_module.BlobStore, "read", lambda *_: pytest.fail("read before the evidence"))
    with pytest.raises(FormatError, match="no evidence"):
        open_model("ocr", device=world.device.folder.path)


def test_the_call_below_the_runtimes_wrapper_is_the_one_that_the_wrapper_makes(world: World) -> None:
    with open_model("ocr", device=world.device.folder.path) as model:
        runtime = model._session._runtime
        np.testing.assert_array_equal(runtime.run(["y"], {"x": X})[0], runtime._sess.run(["y"], {"x": X}, None)[0])


def test_importing_the_package_loads_neither_numpy_nor_anything_else_of_ours() -> None:
    heavy = "n.split('.')[0] in {'numpy', 'onnxruntime', 'tuf'} or n.startswith('device_client.')"
    script = f"import sys, device_client; print([n for n in sys.modules if {heavy}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == "[]"
    with pytest.raises(ImportError):
        from device_client import something_else  # type: ignore[attr-defined]  # noqa: F401
