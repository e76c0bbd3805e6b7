"""A small good bundle made with the library's own types, and a source that holds it in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from device_client.bundle import (
    Budget,
    Contract,
    Counter,
    Descriptor,
    Digest,
    Expected,
    Golden,
    Lineage,
    Manifest,
    ModelConfig,
    ModelRef,
    Requires,
    Scale,
    TensorSpec,
    Tolerance,
    Variant,
    canonical_json,
    media_types,
)
from device_client.errors import IntegrityError

MODELS = {"int8-static": b"bytes of the quantised model", "fp32": b"bytes of the original model, longer"}
GOLDEN = b"golden probes"
CARD = b"# Digits\nA card.\n"


@dataclass
class MemorySource:
    """Blobs by digest; what is stored need not match the name, so that tests can damage it."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    opened: list[Digest] = field(default_factory=list)

    def add(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        self.blobs[digest] = data
        return digest

    def open_blob(self, digest: Digest) -> BinaryIO:
        self.opened.append(digest)
        if digest not in self.blobs:
            raise IntegrityError("blob missing", code="blob_missing", actual=digest)
        return io.BytesIO(self.blobs[digest])

    def blob_digests(self) -> set[Digest]:
        return set(self.blobs)


def sample_variant(name: str, data: bytes, *, precision: str = "int8") -> Variant:
    digest = Digest.of(data)
    return Variant(
        id=name,
        runtime="onnxruntime",
        format="onnx",
        opset=21,
        precision=precision,
        layer=digest,
        model=ModelRef(digest, len(data)),
        requires=Requires(("x86_64",), ("avx2",), 50_000_000, ("CPUExecutionProvider",)),
        expected=Expected("accuracy", 0.97, (0.95, 0.98)),
    )


def sample_contract(*, models: Mapping[str, bytes] = MODELS, golden: bytes = GOLDEN, version: str = "1.0.0") -> Contract:
    return Contract(
        line="clinic",
        model="digits",
        version=version,
        counter=Counter(0, 7),
        task="image-classification",
        inputs=(TensorSpec("x", "float32", ("batch", 64), "grey levels", (0.0, 1.0)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 10), "one score per digit"),),
        preprocessing=(Scale("x", 0.0625, 0.0),),
        variants=tuple(sample_variant(name, data) for name, data in models.items()),
        golden=Golden(Digest.of(golden), 4, tuple((name, Tolerance("absolute", 0.1)) for name in sorted(models))),
        budget=Budget(0.01, 50_000_000, (), 1.0),
        lineage=Lineage(Digest.of(b"source"), Digest.of(b"recipe"), (("train", Digest.of(b"train")),), (("sealift", "0.1.0"),)),
    )


def sample_bundle(
    contract: Contract | None = None, *, models: Mapping[str, bytes] = MODELS
) -> tuple[MemorySource, Manifest, Digest]:
    """A source with every blob, the manifest, and its digest."""
    contract = contract or sample_contract(models=models)
    source = MemorySource()

    def layer(media_type: str, data: bytes, variant: str | None = None) -> Descriptor:
        annotations = () if variant is None else ((media_types.ANNOTATION_VARIANT, variant),)
        return Descriptor(media_type, source.add(data), len(data), annotations)

    layers = (
        layer(media_types.CONTRACT, contract.to_bytes()),
        *(layer(media_types.WEIGHT, data, name) for name, data in models.items()),
        layer(media_types.GOLDEN, GOLDEN),
        layer(media_types.DOC, CARD),
    )
    manifest = Manifest(layer(media_types.CONFIG, ModelConfig.of(contract, layers).to_bytes()), layers)
    return source, manifest, source.add(manifest.to_bytes())


def write_layout(folder: Path, source: MemorySource, manifest: Digest) -> Path:
    """Writes the source as an OCI layout; the packager's writer is tested in its own package."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, data in source.blobs.items():
        (blobs / digest.hex).write_bytes(data)
    size = len(source.blobs[manifest])
    index = {"schemaVersion": 2, "manifests": [Descriptor(media_types.MANIFEST, manifest, size).to_json()]}
    (folder / "index.json").write_bytes(canonical_json(index))
    (folder / "oci-layout").write_bytes(canonical_json({"imageLayoutVersion": "1.0.0"}))
    return folder
