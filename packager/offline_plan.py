"""What goes into an offline file: releases as a device would see them in a published repository, verified before writing.

``plan_export`` refreshes like a device that knows nothing yet, from the repository's own first root, and keeps every role file
that was fetched on the way. That proves the repository consistent, not honest: which root to trust is the importing device's
own knowledge. ``root`` of the plan is shown to whoever exports, who may compare it. Writing is ``offline_export.py``.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadError
from tuf.api.metadata import Snapshot
from tuf.ngclient import FetcherInterface

from device_client.bundle.contract import Contract, parse_contract
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.manifest import Manifest, parse_manifest
from device_client.bundle.path import BundlePath, ModelPath
from device_client.bundle.verified import VerifiedBundle
from device_client.errors import LimitError, TrustError, UsageError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.agreement import AgreedRelease
from device_client.trust.channel import parse_channel
from device_client.trust.client import MetadataClient
from device_client.trust.foreign_errors import mapped_errors
from device_client.trust.marks import Marks
from device_client.trust.refs import BlobRef
from device_client.trust.rules import parse_role
from device_client.trust.trusted_metadata import TrustedMetadata
from packager.publication import Publication, stream_up_to
from packager.staging import copy_checked

_ROLE_OF = re.compile(r"metadata/(?:[0-9]+\.)?")


@dataclass(frozen=True)
class Wish:
    """What somebody wants exported: a model's newest release, or the bundle in a folder, which must be that."""

    model: ModelPath
    bundle: VerifiedBundle | None = None
    folder: LayoutDirectory | None = None


@dataclass(frozen=True)
class Exported:
    """One release of the plan. ``variants``: the ids whose layers go into the file."""

    agreed: AgreedRelease
    manifest: Manifest
    contract: Contract
    variants: tuple[str, ...]
    blobs: tuple[BlobRef, ...]


@dataclass(frozen=True)
class ExportPlan:
    """Everything that the file will hold, verified.

    Attributes:
        root: digest of the newest root.
        metadata: role files by member name.
        releases: in the order that they were asked for.
        folders: where blobs may lie on this machine.
    """

    root: Digest
    metadata: Mapping[str, bytes]
    releases: tuple[Exported, ...]
    folders: tuple[LayoutDirectory, ...]

    def blobs(self) -> list[BlobRef]:
        """Each blob once, by digest."""
        return sorted({ref for release in self.releases for ref in release.blobs}, key=lambda ref: ref.digest)

    def expiries(self) -> dict[str, datetime]:
        """When each role of the newest versions ends, and each verdict on a variant that the file carries."""
        newest: dict[str, Any] = {}
        for name, data in self.metadata.items():
            signed, role = parse_role(data, where=name).signed, _ROLE_OF.sub("", name).removesuffix(".json")
            if role not in newest or newest[role].version < signed.version:
                newest[role] = signed
        verdicts = {
            f"verdict on {release.agreed.path} {each}": verdict.expires
            for release in self.releases
            for each in release.variants
            if (verdict := release.agreed.audit.variants.get(release.contract.variant(each).model.digest)) is not None
        }
        return {**{role: signed.expires for role, signed in sorted(newest.items())}, **verdicts}


def plan_export(
    wishes: Sequence[Wish],
    *,
    publication: Publication,
    variants: Sequence[str] = (),
    clock: Callable[[], datetime],
    limits: Limits = DEFAULT_LIMITS,
) -> ExportPlan:
    """Decides what to write.

    Args:
        wishes: at least one, each of another model.
        publication: the repository.
        variants: ids of the variants to carry; empty means all. The others' layers are left out, their entries stay signed.
        clock: the wall clock, by which roles expire.
        limits: bounds of every read.

    Raises:
        UsageError: a model twice, an unknown variant, a bundle that is not what the channel names as newest.
        VerificationError: what a device would refuse, with its code.
        TransportError: the repository does not give a file.
    """
    models = [wish.model for wish in wishes]
    if len(set(models)) != len(models):
        raise UsageError("a model is named twice", code="export_twice", where=", ".join(map(str, models)))
    folders = tuple(wish.folder for wish in wishes if wish.folder is not None)
    recorder = _Recorder(publication.fetcher)
    first = _first_root(publication, recorder, limits=limits)
    with tempfile.TemporaryDirectory(prefix="sealift-export-") as cache:
        client = MetadataClient(
            metadata_dir=Path(cache), base_url=publication.base_url, bootstrap=first, clock=clock, fetcher=recorder, limits=limits
        )
        trusted = client.refresh(Marks())
        releases = [
            _export(wish, trusted, lambda ref: read_small(ref, publication, folders), variants=variants, limits=limits)
            for wish in wishes
        ]
    _record_bins({role for model in models for role in (model.release_role, model.audit_role)}, publication, recorder)
    root = Digest.of(trusted.root_bytes)
    return ExportPlan(root, dict(sorted(recorder.members().items())), tuple(releases), folders)


def read_small(ref: BlobRef, publication: Publication, folders: Iterable[LayoutDirectory]) -> bytes:
    """A blob whose size its caller has bounded, checked."""

    def once() -> bytes:
        got, out = io.BytesIO(), io.BytesIO()
        copy_from(ref, publication, folders, got.write)
        copy_checked(io.BytesIO(got.getvalue()), out, ref=ref)
        return out.getvalue()

    return publication.with_retries(once)


def copy_from(ref: BlobRef, publication: Publication, folders: Iterable[LayoutDirectory], write: Callable[[bytes], object]) -> None:
    """One try at a blob: from a folder on this machine that holds it, else from the repository."""

    def put(data: bytes) -> None:
        write(data)

    for folder in folders:
        if ref.digest in folder.blob_digests():
            with folder.open_blob(ref.digest) as stream:
                stream_up_to(stream, ref.length + 1, put)
            return
    publication.copy_blob(ref, put)


def _export(
    wish: Wish, trusted: TrustedMetadata, read: Callable[[BlobRef], bytes], *, variants: Sequence[str], limits: Limits
) -> Exported:
    """One release, if it follows the rules.

    1. The release role lists a channel document: a device that imports asks it what is newest.
    2. Both roles name the same bytes for that version.
    3. A folder that was given holds that very bundle.
    4. Manifest and contract are what they must be; every variant that was asked for is one of its.
    """
    ref = trusted.channel_ref(wish.model)  # 1
    if ref is None:
        raise TrustError("the release role lists no channel document", code="offline_channel", where=wish.model.channel_target)
    _check_length(ref, limits.max_channel_bytes, what="channel document")
    latest = parse_channel(read(ref), limits=limits).latest
    agreed = trusted.agree(BundlePath(wish.model.line, wish.model.model, latest))  # 2
    if wish.bundle is not None and (wish.bundle.path, wish.bundle.digest) != (agreed.path, agreed.manifest.digest):  # 3
        raise UsageError(
            "the bundle is not the newest published release of its model, and a device would not import another",
            code="export_not_newest",
            where=str(wish.model),
            expected=f"{latest} ({agreed.manifest.digest})",
            actual=f"{wish.bundle.path.version} ({wish.bundle.digest})",
            hint="publish it first, or export the newest: give LINE/NAME in place of the folder",
        )
    _check_length(agreed.manifest, limits.max_manifest_bytes, what="manifest")  # 4
    manifest = parse_manifest(read(agreed.manifest), encodings=KNOWN_ENCODINGS, limits=limits)
    contract = parse_contract(
        read(BlobRef(manifest.contract.digest, manifest.contract.size)), encodings=KNOWN_ENCODINGS, limits=limits
    )
    chosen = _choose(contract, variants)
    blobs = (
        ref,
        agreed.manifest,
        agreed.release.measurements,
        *_layers(manifest, contract, chosen),
        *_attestations(agreed, contract, chosen),
    )
    return Exported(agreed, manifest, contract, chosen, blobs)


def _choose(contract: Contract, wanted: Sequence[str]) -> tuple[str, ...]:
    known = [variant.id for variant in contract.variants]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise UsageError(
            "no such variant",
            code="variant_unknown",
            where=str(contract.path),
            expected=", ".join(known),
            actual=", ".join(unknown),
        )
    return tuple(each for each in known if not wanted or each in wanted)


def _layers(manifest: Manifest, contract: Contract, chosen: Iterable[str]) -> Iterator[BlobRef]:
    """Config and layers, but for those that only variants left out need."""
    mine = {contract.variant(each).layer for each in chosen}
    others = {variant.layer for variant in contract.variants} - mine
    for item in (manifest.config, *manifest.layers):
        if item.digest not in others:
            yield BlobRef(item.digest, item.size)


def _attestations(agreed: AgreedRelease, contract: Contract, chosen: Iterable[str]) -> Iterator[BlobRef]:
    for each in chosen:
        verdict = agreed.audit.variants.get(contract.variant(each).model.digest)
        if verdict is not None:
            yield verdict.attestation


def _check_length(ref: BlobRef, bound: int, *, what: str) -> None:
    if ref.length > bound:
        raise LimitError(f"{what} too large", code="too_large", where=str(ref.digest), expected=f"at most {bound} bytes")


def _first_root(publication: Publication, recorder: _Recorder, *, limits: Limits) -> bytes:
    """The oldest root: the chain in the file must begin where the oldest device that may read it begins."""
    with mapped_errors(publication.base_url):
        return recorder.download_bytes(f"{publication.base_url}1.root.json", limits.max_root_bytes)


def _record_bins(roles: Iterable[str], publication: Publication, recorder: _Recorder) -> None:
    """The bins of these roles that nothing was looked up in: a device may hold a bundle that is listed there.

    Copied as they are; the device verifies the one that it needs, as the roles that name it are verified.
    """
    name = next(each for each in recorder.files if each.endswith(".snapshot.json"))
    snapshot = parse_role(recorder.files[name], where=name).signed
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(roles)))})-[0-9a-f]{{1,4}}\.json\Z")
    for listed, meta in snapshot.meta.items() if isinstance(snapshot, Snapshot) else ():
        if pattern.match(listed):
            with mapped_errors(publication.base_url):
                recorder.download_bytes(f"{publication.base_url}{meta.version}.{listed}", DEFAULT_LIMITS.max_targets_bytes)


class _Recorder(FetcherInterface):
    """Passes on what another fetcher gives, and keeps every file that it gave whole."""

    def __init__(self, inner: FetcherInterface) -> None:
        self._inner = inner
        self.files: dict[str, bytes] = {}

    def members(self) -> dict[str, bytes]:
        """The files under the names that they have in an offline file."""
        return {f"metadata/{name}": data for name, data in self.files.items()}

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = bytearray()
        for chunk in self._inner.fetch(url):
            data += chunk
            if len(data) > DEFAULT_LIMITS.max_targets_bytes:
                raise DownloadError(f"{url} is longer than any role may be")
        self.files[url.rpartition("/")[2]] = bytes(data)
        return iter([bytes(data)])
