"""A published repository in a folder, as a copy of a server's data folder has it; made of a test's world."""

from __future__ import annotations

from pathlib import Path

from device_client.bundle.digest import Digest
from tests.unit.device.offline_files import metadata_of
from tests.unit.device.world import Bundle, World

MEASUREMENTS, ATTESTATION = b"measurements", b"attestation"  # what the world's entries name


def publish_to(folder: Path, world: World, *made: Bundle) -> Path:
    """Writes what the simulated repository shows now, and all blobs."""
    (folder / "tuf").mkdir(parents=True, exist_ok=True)
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for name, data in metadata_of(world).items():
        (folder / "tuf" / name.removeprefix("metadata/")).write_bytes(data)
    held = {digest: data for each in made for digest, data in each.blobs.items()} | dict(world.server.blobs)
    for data in (*held.values(), MEASUREMENTS, ATTESTATION):
        (blobs / Digest.of(data).hex).write_bytes(data)
    return folder


def write_layout(folder: Path, made: Bundle) -> Path:
    """The bundle's own folder, as `sealift pack` leaves it."""
    from device_client.bundle.manifest import parse_manifest
    from packager.writer import write_layout as write

    write(
        folder,
        blobs={digest: data for digest, data in made.blobs.items() if digest != made.digest},
        manifest=parse_manifest(made.manifest),
    )
    return folder
