"""A model is stored encoded from `pack` to the device: signed, admitted, published, polled, run, exported, and audited decoded.

The real commands, the real server, real HTTP. One release in the codebook encoding, then one as a zstd frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

import demo.names
from audits.targets import load_bundle
from device_client.bundle import media_types
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.verified import verify_bundle
from device_client.inspect import inspect_layout
from device_client.install.folder import open_device
from device_client.install.store import open_store
from tests.e2e.test_post_quantum import PASSPHRASE, Shop, X
from tests.threats.sealed import Sealed
from tests.unit.inference import models

pytestmark = pytest.mark.e2e

EVERYBODY = ("root-a", "targets", "snapshot", "timestamp", "release-a", "release-b", "audit-a", "audit-b")
RECIPE = """
technique = []
task = "regression"
[budget]
accuracy_drop = 0.9
[golden]
mutants = 10
[latency]
rounds = 0
[storage]
encodings = ["{encoding}"]
[inputs.x]
range = [-10, 10]
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("SEALIFT_PASSPHRASE", PASSPHRASE)
    (tmp_path / "keys").mkdir()
    made = Shop(tmp_path)
    yield made
    made.stop()


def packed(shop: Shop, version: str, *, counter: int, encoding: str) -> Sealed:
    """`sealift pack` on a network whose weights take three values."""
    rng = np.random.default_rng(counter)
    shapes = {"w1": (3, 64), "w2": (64, 64), "w3": (64, 3)}
    weights = {name: (rng.integers(-1, 2, shape) * 0.25).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"]),
    ]
    made = models.model(nodes, initializers=[numpy_helper.from_array(array, name) for name, array in weights.items()])
    (shop.folder / f"{version}.onnx").write_bytes(made.SerializeToString())
    np.savez(shop.folder / "data.npz", x=rng.uniform(-9, 9, (40, 3)).astype(np.float32))
    (shop.folder / "recipe.toml").write_text(RECIPE.format(encoding=encoding), encoding="utf-8")
    line, name = demo.names.LINE, demo.names.MODEL
    told = shop.run(
        f"pack {version}.onnx --data data.npz --recipe recipe.toml --line {line} --name {name} --version {version} "
        f"--counter 0.{counter} --out bundles/{version}"
    )
    size = told["size"]
    assert (size["encoding"], size["stored"] < 0.4 * size["after"]) == (encoding, True)
    folder = shop.folder / "bundles" / version
    layout = LayoutDirectory(folder)
    named = layout.manifest_descriptor()
    return Sealed(folder, verify_bundle(layout, named.digest, manifest_size=named.size, closed=True))


def test_an_encoded_release_goes_from_the_packager_to_the_device_and_to_the_auditor(shop: Shop) -> None:
    shop.make_keys(dict.fromkeys(EVERYBODY, "ed25519"))
    shop.hold_ceremony(["root-a"], threshold=1)
    shop.start_server()
    results = {}
    for counter, (version, encoding) in enumerate((("1.0.0", "codebook"), ("1.1.0", "zstd")), start=1):
        sealed = packed(shop, version, counter=counter, encoding=encoding)
        (layer,) = sealed.bundle.manifest.layers_of(media_types.WEIGHT)
        assert layer.digest != sealed.model
        assert [subject.model.digest for subject in load_bundle(sealed.folder).variants] == [sealed.model]
        shown = shop.run(f"inspect bundles/{version}")["layers"][1]
        assert (shown["annotations"]["org.sealift.encoding"], shown["size"]) == (encoding, layer.size)
        assert f"model fp32, encoded ({encoding})" in inspect_layout(sealed.folder).to_text()
        shop.release(sealed)
        if counter == 1:
            shop.start_device()
        assert shop.run("device poll --dir device")["result"] == "installed"
        assert shop.active_version() == version
        held = open_store(open_device(shop.folder / "device").folder).digests()
        assert sealed.model in held
        assert layer.digest not in held
        results[version] = shop.infer()
        assert results[version].shape == (len(X), 3)
        assert (shop.folder / "server" / "blobs" / "sha256" / layer.digest.hex).stat().st_size == layer.size
    assert not np.allclose(results["1.0.0"], results["1.1.0"])
    shop.run(f"export bundles/1.1.0 --repo server --out F.tar --root-sha256 {shop.root_sha256}")
