"""``sealift export``: writes an offline file and reads it back with the device's own code before it gets its name.

The plan (``offline_plan.py``) is verified already; the same plan gives the same bytes. Written beside its place and renamed: an
interrupted export leaves no file that looks whole.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from device_client.bundle import media_types
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LAYOUT_VERSION, check_blob
from device_client.bundle.offline import MetadataName, OfflineFile, open_offline
from device_client.bundle.strict_json import canonical_json
from device_client.bundle.verified import verify_bundle
from device_client.errors import StateError, TrustError
from device_client.install.offline_source import FileFetcher
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.client import MetadataClient
from device_client.trust.files import sync_folder
from device_client.trust.marks import Marks
from device_client.trust.refs import BlobRef
from packager.offline_plan import ExportPlan, copy_from
from packager.publication import Publication
from packager.ustar_writer import UstarWriter


@dataclass(frozen=True)
class ExportResult:
    """The file as it is on disk: its length in bytes and its digest."""

    out: Path
    size_bytes: int
    sha256: Digest


def write_export(
    plan: ExportPlan,
    out: Path,
    *,
    publication: Publication,
    clock: Callable[[], datetime],
    advance: Callable[[int], None] = lambda _: None,
    limits: Limits = DEFAULT_LIMITS,
) -> ExportResult:
    """Carries out a plan; replaces a file of that name. On the disk when this returns.

    Args:
        plan: what to write.
        out: the file.
        publication: where blobs come from that no folder of the plan holds.
        clock: the wall clock, for reading it back.
        advance: told of blob bytes as they are written.
        limits: bounds of the reader.

    Raises:
        IntegrityError: a blob that is missing or other than signed.
        TransportError: a blob does not arrive.
        VerificationError: the device's reader refuses what was written, for instance as too large.
        StateError: the disk refused (``write_failed``); ``out`` is as it was.
    """
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name[:64]}.new-")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            _write(UstarWriter(file), plan, publication, advance)
            file.flush()
            os.fsync(descriptor)
        with open_offline(temporary, limits=limits) as offline:
            check_exported(plan, offline, clock=clock, limits=limits)
        result = ExportResult(out, temporary.stat().st_size, _digest_of(temporary))
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as e:
        raise StateError(
            f"cannot write the offline file: {e.strerror or e}",
            code="write_failed",
            where=str(out),
            hint="check the folder, space and permissions",
        ) from e
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return result


def check_exported(
    plan: ExportPlan, offline: OfflineFile, *, clock: Callable[[], datetime], limits: Limits = DEFAULT_LIMITS
) -> None:
    """Reads the file as a device that knows only the first root would: metadata, agreement, and every byte of every bundle.

    Raises:
        VerificationError: a device would refuse it; the code says why.
    """
    first = offline.metadata[MetadataName("root", 1)]
    with tempfile.TemporaryDirectory(prefix="sealift-export-") as cache:
        client = MetadataClient(
            metadata_dir=Path(cache), base_url="file:/", bootstrap=first, clock=clock, fetcher=FileFetcher(offline), limits=limits
        )
        trusted = client.refresh(Marks())
        for release in plan.releases:
            agreed = trusted.agree(release.agreed.path)
            if agreed.manifest != release.agreed.manifest:
                raise TrustError("the file names other bytes than were planned", code="metadata_mismatch", where=str(agreed.path))
            verify_bundle(
                offline,
                agreed.manifest.digest,
                manifest_size=agreed.manifest.length,
                path=agreed.path,
                counter=agreed.release.counter,
                variants=release.variants,
                limits=limits,
            )
            for ref in release.blobs:
                check_blob(offline, ref.digest, ref.length)


def _write(tar: UstarWriter, plan: ExportPlan, publication: Publication, advance: Callable[[int], None]) -> None:
    for name, data in plan.metadata.items():
        tar.add(name, data)
    tar.add("oci-layout", canonical_json({"imageLayoutVersion": LAYOUT_VERSION}))
    tar.add("index.json", _index(plan))
    for ref in plan.blobs():
        _add(tar, ref, plan, publication)
        advance(ref.length)
    tar.close()


def _add(tar: UstarWriter, ref: BlobRef, plan: ExportPlan, publication: Publication) -> None:
    def once() -> None:
        tar.add_blob(ref, lambda write: copy_from(ref, publication, plan.folders, write))

    publication.with_retries(once)


def _index(plan: ExportPlan) -> bytes:
    """For other OCI tools; nobody signed it and no device looks at it."""

    def described(ref: BlobRef) -> dict[str, object]:
        return {
            "mediaType": media_types.MANIFEST,
            "artifactType": media_types.ARTIFACT_TYPE,
            "digest": str(ref.digest),
            "size": ref.length,
        }

    manifests = sorted((release.agreed.manifest for release in plan.releases), key=lambda ref: ref.digest)
    return canonical_json({"schemaVersion": 2, "mediaType": media_types.INDEX, "manifests": [described(ref) for ref in manifests]})


def _digest_of(path: Path) -> Digest:
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())
