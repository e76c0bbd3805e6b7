"""Re-issues a bundle under a new version and counter: how a whole fleet goes back to an older model.

The layers stay the same bytes, so audit verdicts, which are keyed by the variants' digests, carry over. Only contract,
config and manifest are new. Needs neither numpy nor onnx.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from device_client.bundle import media_types
from device_client.bundle.config import ModelConfig
from device_client.bundle.contract import Contract
from device_client.bundle.counter import Counter
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LayoutDirectory, read_blob
from device_client.bundle.manifest import Manifest
from device_client.bundle.path import BundlePath
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from packager.measurements import copy_measurements, measurements_path
from packager.writer import refuse_existing, write_layout


def reissue_bundle(src: Path, *, version: str, counter: Counter, out: Path) -> VerifiedBundle:
    """Writes ``src`` again under another version and counter.

    Args:
        src: a bundle folder; verified first, since what is copied gets a new name.
        version: the new version.
        counter: the new release counter. Whether it is high enough is checked when it is signed.
        out: the folder to make. Its ``.measurements.json`` is made too if ``src`` has one.

    Raises:
        VerificationError: ``src`` is not a bundle that a device would accept, or the version is no legal name.
        UsageError: ``out`` exists.
    """
    for target in (out, measurements_path(out)):
        refuse_existing(target)
    layout = LayoutDirectory(src)
    named = layout.manifest_descriptor()
    old = verify_bundle(layout, named.digest, manifest_size=named.size, closed=True)
    BundlePath(old.contract.line, old.contract.model, version)  # a legal name, before anything is read
    blobs = {layer.digest: read_blob(layout, layer.digest, layer.size) for layer in old.manifest.layers[1:]}
    manifest, added = compose_manifest(replace(old.contract, version=version, counter=counter), old.manifest.layers[1:])
    bundle = write_layout(out, blobs={**blobs, **added}, manifest=manifest)
    copy_measurements(src, out, manifest=bundle.digest)
    return bundle


def compose_manifest(contract: Contract, layers: tuple[Descriptor, ...]) -> tuple[Manifest, dict[Digest, bytes]]:
    """The manifest of a contract and the other layers, with the two blobs that follow from them: contract and config."""
    contract_bytes = contract.to_bytes()
    all_layers = (Descriptor(media_types.CONTRACT, Digest.of(contract_bytes), len(contract_bytes)), *layers)
    config_bytes = ModelConfig.of(contract, all_layers).to_bytes()
    config = Descriptor(media_types.CONFIG, Digest.of(config_bytes), len(config_bytes))
    blobs = {all_layers[0].digest: contract_bytes, config.digest: config_bytes}
    return Manifest(config, all_layers), blobs
