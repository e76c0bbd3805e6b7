"""``parse_manifest``: what is accepted is written back and read again as the same manifest."""

from __future__ import annotations

import random
from collections.abc import Iterator

from device_client.bundle import media_types
from device_client.bundle.manifest import parse_manifest
from device_client.limits import DEFAULT_LIMITS
from tests.fuzz.json_mutator import mutate_json
from tests.fuzz.target import accepted, check_strict, promise
from tests.fuzz.vectors import bodies

MAX_BYTES = 16_384
WORDS = (
    b'"schemaVersion"', b'"mediaType"', b'"artifactType"', b'"config"', b'"layers"', b'"annotations"', b'"digest"', b'"size"',
    b'"urls"', b'"data"', b'"subject"', b'"manifests"', b'"platform"', b"sha256:", b"sha512:", b"org.sealift.variant",
    b"org.sealift.encoding", b"zstd", media_types.MANIFEST.encode(), media_types.CONFIG.encode(), media_types.CONTRACT.encode(),
    media_types.WEIGHT.encode(), media_types.GOLDEN.encode(), media_types.DOC.encode(),
)  # fmt: skip
_FORBIDDEN = {"urls", "data", "subject", "manifests", "platform"}


def fuzz_one(data: bytes) -> None:
    """See the module."""
    value = check_strict(data, max_bytes=DEFAULT_LIMITS.max_manifest_bytes)
    manifest = accepted(lambda: parse_manifest(data))
    if manifest is None:
        return
    promise(parse_manifest(manifest.to_bytes()) == manifest, "written back, it is another manifest")
    promise(manifest.contract == manifest.layers[0], "the contract is not the first layer")
    promise(len({blob.digest for blob in manifest.blobs}) == len(manifest.blobs), "a digest twice")
    promise(sum(blob.size for blob in manifest.blobs) <= DEFAULT_LIMITS.max_total_bytes, "larger than its bound")
    promise(isinstance(value, dict) and not _FORBIDDEN & set(value), "a forbidden field")


def seeds() -> Iterator[bytes]:
    """The vectors."""
    yield from bodies("manifest")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """JSON changes."""
    return mutate_json(data, rng)
