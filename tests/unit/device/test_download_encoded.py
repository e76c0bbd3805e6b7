"""A model that is served encoded is stored, verified and run decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from device_client.bundle import Descriptor, Digest, Manifest, ModelConfig, ModelRef, media_types, verify_bundle
from device_client.errors import FormatError, IntegrityError, SealiftError
from device_client.install.download import Wanted, download_missing, wanted_of_variant
from device_client.install.http import HttpClient
from device_client.install.layer_decoder import decode_layer
from device_client.install.store import BlobStore, open_store
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.refs import BlobRef
from tests.unit.bundle.samples import MemorySource
from tests.unit.device.keys import FixedKey
from tests.unit.device.ranges import serving_blobs
from tests.unit.device.world import Bundle, World, bundle
from update_server import admission

CONTENT = b"weights " * 200_000
LAYER = zstandard.ZstdCompressor(level=3).compress(CONTENT)
WANTED = Wanted(BlobRef.of(LAYER), BlobRef.of(CONTENT), "zstd")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", key=FixedKey())


def fetch(store: BlobStore, wanted: Wanted, *served: bytes) -> int:
    with serving_blobs() as blobs:
        blobs.data = {f"/blobs/sha256/{wanted.layer.digest.hex}": data for data in served}
        return download_missing([wanted], store=store, http=HttpClient(blobs.url, sleep=lambda _: None))


def test_what_is_stored_is_the_decoded_model(store: BlobStore) -> None:
    assert fetch(store, WANTED, LAYER) == len(LAYER)
    assert store.digests() == {WANTED.content.digest}
    assert store.read(WANTED.content.digest) == CONTENT
    assert fetch(store, WANTED) == 0, "it is there"


@pytest.mark.parametrize(
    ("wanted", "served", "code"),
    [
        (WANTED, LAYER[:-1], "blob_digest_mismatch"),
        (WANTED, LAYER + b"x", "blob_digest_mismatch"),
        (WANTED, LAYER[:50] + b"!" + LAYER[51:], "blob_digest_mismatch"),
        (replace(WANTED, layer=BlobRef.of(LAYER + b"x")), LAYER + b"x", "encoding_frame"),
        (WANTED, zstandard.ZstdCompressor(level=9).compress(CONTENT), "blob_digest_mismatch"),
        (WANTED, zstandard.ZstdCompressor().compress(CONTENT[:-1] + b"!"), "blob_digest_mismatch"),
        (replace(WANTED, content=BlobRef(WANTED.content.digest, 100)), LAYER, "encoding_frame"),
        (replace(WANTED, content=BlobRef(Digest.of(b"other"), len(CONTENT))), LAYER, "blob_digest_mismatch"),
        (replace(WANTED, encoding="delta"), LAYER, "encoding_unknown"),
    ],
)
def test_a_layer_that_does_not_hold_what_was_signed_leaves_nothing(
    store: BlobStore, wanted: Wanted, served: bytes, code: str
) -> None:
    with pytest.raises(SealiftError) as caught:
        fetch(store, wanted, served)
    assert isinstance(caught.value, IntegrityError | FormatError)
    assert caught.value.code == code
    assert store.size_bytes() == 0


def test_a_bomb_is_stopped_at_the_signed_size(store: BlobStore) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=False, window_log=20)
    layer = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(200_000_000))
    with pytest.raises(IntegrityError) as caught:
        fetch(store, Wanted(BlobRef.of(layer), BlobRef(Digest.of(b"x"), 1000), "zstd"), layer)
    assert caught.value.code == "blob_size_mismatch"
    assert store.size_bytes() == 0


def encoded(plain: Bundle) -> tuple[Bundle, bytes]:
    """The same release with its model as a zstd frame; and the frame."""
    variant = plain.contract.variant("int8")
    frame = zstandard.ZstdCompressor().compress(plain.blobs[variant.model.digest])
    contract = replace(plain.contract, variants=(replace(variant, layer=Digest.of(frame)),), features=("encoding:zstd",))
    blobs = {Digest.of(frame): frame}

    def layer(media_type: str, content: bytes, *annotations: tuple[str, str]) -> Descriptor:
        blobs[Digest.of(content)] = content
        return Descriptor(media_type, Digest.of(content), len(content), tuple(sorted(annotations)))

    layers = (
        layer(media_types.CONTRACT, contract.to_bytes()),
        layer(media_types.WEIGHT, frame, (media_types.ANNOTATION_VARIANT, "int8"), (media_types.ANNOTATION_ENCODING, "zstd")),
        layer(media_types.GOLDEN, plain.blobs[contract.golden.layer]),
    )
    manifest = Manifest(layer(media_types.CONFIG, ModelConfig.of(contract, layers).to_bytes()), layers).to_bytes()
    blobs[Digest.of(manifest)] = manifest
    return Bundle(contract, manifest, blobs), frame


def test_a_device_installs_runs_and_keeps_a_release_with_an_encoded_model(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    made, frame = encoded(bundle("1.0.0", counter=1, scale=3.0))
    world.publish(made)
    assert world.poll().result == "installed"
    assert world.running() == 3.0
    store = open_store(world.device.folder)
    assert made.model() in store.digests()
    assert Digest.of(frame) not in store.digests()
    store.remove(made.model())
    assert world.poll().result == "current"
    assert world.running() == 3.0, "a lost model comes back, decoded"


def test_the_server_walks_the_model_inside_an_encoded_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    made, frame = encoded(bundle("1.0.0", counter=1))
    source = MemorySource(dict(made.blobs))
    walked: list[bytes] = []
    monkeypatch.setattr(admission, "check_model", lambda data, **_: walked.append(data))
    admission._check_models(verify_bundle(source, made.digest), blobs=source, limits=DEFAULT_LIMITS)
    assert [Digest.of(data) for data in walked] == [made.model()]
    source.blobs[Digest.of(frame)] = frame[:-1] + b"!"
    layer = verify_bundle(MemorySource(dict(made.blobs)), made.digest).manifest.layers[1]
    with pytest.raises(IntegrityError) as damaged:
        decode_layer(source, layer, made.contract.variant("int8").model)
    assert damaged.value.code == "blob_digest_mismatch", "nobody signed these bytes"
    with pytest.raises(FormatError) as caught:
        decode_layer(MemorySource(dict(made.blobs)), layer, ModelRef(made.model(), 5))
    assert caught.value.code == "encoding_frame"


def test_who_publishes_checks_the_layer_and_who_installed_the_model() -> None:
    made, frame = encoded(bundle("1.0.0", counter=1))
    as_served = MemorySource(dict(made.blobs))
    verify_bundle(as_served, made.digest)
    assert wanted_of_variant(verify_bundle(as_served, made.digest).manifest, made.contract.variant("int8"))[-1] == Wanted(
        BlobRef.of(frame), BlobRef(made.model(), made.contract.variant("int8").model.size), "zstd"
    )
    with pytest.raises(IntegrityError) as caught:
        verify_bundle(as_served, made.digest, decoded=True)
    assert caught.value.code == "blob_missing"
