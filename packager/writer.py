"""Writes a bundle as an OCI image layout: whole or not at all, and never over something that exists.

The same blobs and manifest give the same files, byte for byte. Before the folder gets its name, the device's own
verifier reads it back; a bundle that a device would refuse does not appear.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from device_client.bundle import media_types
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LAYOUT_VERSION, LayoutDirectory
from device_client.bundle.manifest import Manifest
from device_client.bundle.strict_json import canonical_json
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.errors import StateError, UsageError
from device_client.trust.files import sync_folder


def write_layout(out: Path, *, blobs: Mapping[Digest, bytes], manifest: Manifest) -> VerifiedBundle:
    """Writes, verifies and renames into place; survives a power cut once it returned.

    Args:
        out: the folder to make; its parents are made too.
        blobs: config and layers by digest, exactly those that the manifest lists.
        manifest: the manifest.

    Raises:
        UsageError: ``out`` exists.
        StateError: the disk refused; ``out`` does not exist and the temporary folder is gone.
        VerificationError: the verifier refuses what was written.
    """
    refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=".new-"))
    except OSError as e:
        raise _disk_error(out, e) from e
    try:
        digest = _write_tree(temporary, blobs, manifest)
        bundle = verify_bundle(LayoutDirectory(temporary), digest, closed=True)
        temporary.rename(out)  # fails on a folder with content, should one have appeared since
        sync_folder(out.parent)
    except OSError as e:
        raise _disk_error(out, e) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bundle


def refuse_existing(path: Path) -> None:
    """Raises if there is anything at ``path``, a dangling link included.

    Raises:
        UsageError: there is.
    """
    if os.path.lexists(path):
        raise UsageError(
            "the target exists already", code="target_exists", where=str(path), hint="choose another --out, or remove it"
        )


def _write_tree(folder: Path, blobs: Mapping[Digest, bytes], manifest: Manifest) -> Digest:
    data = manifest.to_bytes()
    digest = Digest.of(data)
    store = folder / "blobs" / "sha256"
    store.mkdir(parents=True)
    for name, content in sorted({**blobs, digest: data}.items()):
        _write_file(store / name.hex, content)
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.INDEX,
        "manifests": [
            {
                "mediaType": media_types.MANIFEST,
                "artifactType": media_types.ARTIFACT_TYPE,
                "digest": str(digest),
                "size": len(data),
            }
        ],
    }
    _write_file(folder / "index.json", canonical_json(index))
    _write_file(folder / "oci-layout", canonical_json({"imageLayoutVersion": LAYOUT_VERSION}))
    for path in (store, store.parent, folder):
        path.chmod(0o755)
        sync_folder(path)
    return digest


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _disk_error(out: Path, error: OSError) -> StateError:
    return StateError(
        f"cannot write the bundle: {error.strerror or error}",
        code="write_failed",
        where=str(out),
        hint="check space and permissions",
    )
