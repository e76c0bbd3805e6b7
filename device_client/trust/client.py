"""One refresh of TUF metadata: the device's only way to learn what is signed.

Wraps ``tuf.ngclient`` with bootstrap bytes, our fetcher, strict JSON on every file, our memory of versions, and one
map from foreign errors to reason codes. A fresh ``Updater`` for every refresh, since python-tuf allows one each.

    client = MetadataClient(metadata_dir=cache, base_url=url + "/tuf/", bootstrap=root_bytes)
    trusted = client.refresh(marks)
    agreed = trusted.agree(BundlePath("digits", "ocr", "1.0.0"))
    remember(trusted.marks)

The private hooks of python-tuf that this uses are pinned by ``tests/unit/trust/test_ngclient_hooks.py``.
"""

from __future__ import annotations

import logging
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Key
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets
from tuf.api.serialization.json import CanonicalJSONSerializer
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath, ModelPath
from device_client.errors import FormatError, LimitError, SealiftError, StateError, TransportError, TrustError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.agreement import AgreedRelease, check_agreement
from device_client.trust.fetcher import SealiftFetcher
from device_client.trust.marks import Marks, VersionMark, advance, keyset_digest
from device_client.trust.refs import BlobRef
from device_client.trust.rules import check_contents, check_lifetime, delegation_for, keys_of, keys_of_top_level, parse_role
from device_client.trust.times import utc_now

logger = logging.getLogger(__name__)


class MetadataClient:
    """Refreshes metadata against one repository.

    Args:
        metadata_dir: the TUF cache; disposable, one process at a time.
        base_url: where the metadata files are, ending in ``/``.
        bootstrap: bytes of the root that trust starts from; never fetched, never taken from the cache.
        limits: caps for each role.
        clock: current time, aware UTC; injectable for tests and for a trusted time source.
        fetcher: how bytes are fetched; injectable for tests.
    """

    def __init__(
        self,
        *,
        metadata_dir: Path,
        base_url: str,
        bootstrap: bytes,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], datetime] = utc_now,
        fetcher: FetcherInterface | None = None,
    ) -> None:
        self._metadata_dir = metadata_dir
        self._base_url = base_url
        self._bootstrap = bootstrap
        self._limits = limits
        self._clock = clock
        self._fetcher = fetcher

    def refresh(self, marks: Marks) -> TrustedMetadata:
        """Loads root, timestamp, snapshot and targets as TUF says, then compares them with what is remembered.

        Raises:
            TrustError: ``signature_threshold``, ``metadata_rollback``, ``metadata_expired``, ``metadata_mismatch``,
                ``equivocation``, ``metadata_invalid``.
            FormatError, LimitError: a file that is not strict JSON or beyond its cap.
            TransportError: no answer, or an HTTP error.
            OSError: the cache cannot be written; it may be deleted at any time.
        """
        clear_strangers(self._metadata_dir)
        with mapped_errors(self._base_url):
            updater = _RecordingUpdater(
                metadata_dir=str(self._metadata_dir),
                metadata_base_url=self._base_url,
                fetcher=self._fetcher or SealiftFetcher(),
                config=UpdaterConfig(
                    max_root_rotations=self._limits.max_root_rotations,
                    root_max_length=self._limits.max_root_bytes,
                    timestamp_max_length=self._limits.max_timestamp_bytes,
                    snapshot_max_length=self._limits.max_snapshot_bytes,
                    targets_max_length=self._limits.max_targets_bytes,
                ),
                bootstrap=self._bootstrap,
            )
            updater.judge_expiry_at(self._clock())
            updater.refresh()
        return TrustedMetadata(updater, marks=marks, limits=self._limits)


class TrustedMetadata:
    """The verified roles of one refresh; made by ``MetadataClient.refresh`` only."""

    def __init__(self, updater: _RecordingUpdater, *, marks: Marks, limits: Limits) -> None:
        self._updater = updater
        self._limits = limits
        self._root_chain = updater.root_chain()  # now: the cache may be gone when it is asked for
        self.root: Root = updater.trusted_root
        self.targets: Targets = updater.trusted_targets
        self.marks: Marks = advance(marks, self._top_level_marks())

    @property
    def root_bytes(self) -> bytes:
        """Bytes of the newest verified root."""
        return self._root_chain[-1]

    @property
    def roots(self) -> dict[int, bytes]:
        """Every root from the bootstrap to the newest, by version."""
        first = self.root.version - len(self._root_chain) + 1
        return dict(enumerate(self._root_chain, start=first))

    def agree(self, path: BundlePath) -> AgreedRelease:
        """The manifest that both roles name for ``path``; advances ``marks`` for both roles.

        Raises:
            TrustError, FormatError: the code of the rule in ``agreement.check_agreement``, or of loading a role.
        """
        model = path.of_model
        found = {role: self._load(role) for role in (model.release_role, model.audit_role)}
        roles = {role: signed for role, signed in found.items() if signed is not None}
        return check_agreement(path, root=self.root, targets=self.targets, roles=roles, limits=self._limits)

    def channel_ref(self, model: ModelPath) -> BlobRef | None:
        """Where the model's channel document is, as the release role lists it; None if it lists none.

        Raises:
            TrustError: the role breaks a rule, or the entry's hashes are not exactly sha256.
        """
        signed = self._load(model.release_role)
        entry = None if signed is None else signed.targets.get(model.channel_target)
        if entry is None:
            return None
        if set(entry.hashes) != {"sha256"}:
            raise TrustError("the entry's hashes are not exactly sha256", code="hash_not_sha256", where=model.channel_target)
        return BlobRef(Digest(entry.hashes["sha256"]), entry.length)

    def evidence(self, path: BundlePath) -> dict[str, bytes]:
        """The signed files that ``agree(path)`` rested on, by name: roots from the bootstrap on, targets and the two roles."""
        files = {f"{version}.root.json": data for version, data in self.roots.items()}
        model = path.of_model
        for role in ("targets", model.release_role, model.audit_role):
            files[f"{role}.json"] = self._updater.verified_bytes[role]
        return files

    def _load(self, role: str) -> Targets | None:
        """Loads a delegated role under top-level targets and holds it to its rules; None if snapshot does not list it."""
        if f"{role}.json" not in self._updater.trusted_snapshot.meta:
            return None
        delegation = delegation_for(self.targets, role)
        with mapped_errors(role):
            try:
                signed = self._updater.load_delegated(role)
            except OSError as e:
                raise StateError(
                    "cannot write the metadata cache",
                    code="cache_unwritable",
                    where=role,
                    actual=e.strerror,
                    hint="free some space; the running model is not touched",
                ) from e
        check_lifetime(signed, role=role)
        check_contents(signed, delegation)
        keyset = keyset_digest([*keys_of(self.targets, role), *self._snapshot_keys()], threshold=delegation.threshold)
        self.marks = advance(self.marks, [self._mark(role, signed.version, keyset)])
        return signed

    def _top_level_marks(self) -> Iterator[VersionMark]:
        for role in ("timestamp", "snapshot", "targets"):
            keys = keys_of_top_level(self.root, role)
            if role == "targets":  # a poisoned snapshot can name any version, so its keys are part of the binding
                keys += self._snapshot_keys()
            keyset = keyset_digest(keys, threshold=self.root.get_delegated_role(role).threshold)
            yield self._mark(role, self._updater.version_of(role), keyset)

    def _snapshot_keys(self) -> list[Key]:
        return keys_of_top_level(self.root, "snapshot")

    def _mark(self, role: str, version: int, keyset: Digest) -> VersionMark:
        # Of what is signed, not of the file: anyone on the way can add a space or a signature, and would have the device
        # call the honest file an equivocation.
        return VersionMark(role, version, Digest.of(self._updater.signed_bytes(role)), keyset)


class _RecordingUpdater(Updater):
    """An ``Updater`` that keeps the verified bytes of each role, which python-tuf parses and forgets."""

    def __init__(
        self, *, metadata_dir: str, metadata_base_url: str, fetcher: FetcherInterface, config: UpdaterConfig, bootstrap: bytes
    ) -> None:
        self.verified_bytes: dict[str, bytes] = {}
        self._roots: dict[int, bytes] = {}
        super().__init__(metadata_dir, metadata_base_url, fetcher=fetcher, config=config, bootstrap=bootstrap)

    def judge_expiry_at(self, now: datetime) -> None:
        self._trusted_set.reference_time = now

    @property
    def trusted_root(self) -> Root:
        root: Root = self._trusted_set.root
        return root

    @property
    def trusted_snapshot(self) -> Snapshot:
        snapshot: Snapshot = self._trusted_set.snapshot
        return snapshot

    @property
    def trusted_targets(self) -> Targets:
        targets: Targets = self._trusted_set.targets
        return targets

    def version_of(self, role: str) -> int:
        version: int = self._trusted_set[role].version
        return version

    def signed_bytes(self, role: str) -> bytes:
        """The canonical form of what the role's keys signed."""
        data: bytes = CanonicalJSONSerializer().serialize(self._trusted_set[role])
        return data

    def load_delegated(self, role: str) -> Targets:
        return self._load_targets(role, Targets.type)

    def root_chain(self) -> list[bytes]:
        """Root bytes from the bootstrap's version to the newest, in order."""
        first = min(self._roots)
        chain = []
        for version in range(first, self.trusted_root.version + 1):
            data = self._roots.get(version)
            chain.append(data if data is not None else Path(self._dir, "root_history", f"{version}.root.json").read_bytes())
        if Metadata.from_bytes(chain[-1]).signed != self.trusted_root:
            raise TrustError(
                "the cached root is not the verified one", code="metadata_mismatch", where="root", hint="delete the metadata cache"
            )
        return chain

    def _download_metadata(self, rolename: str, length: int, version: int | None = None) -> bytes:
        data: bytes = super()._download_metadata(rolename, length, version)
        parse_role(data, where=f"{rolename}.json")  # strict JSON before python-tuf's lenient reader sees it
        return data

    def _load_local_metadata(self, rolename: str) -> bytes:
        data: bytes = super()._load_local_metadata(rolename)
        self.verified_bytes[rolename] = data  # if it does not verify, the download replaces it in _persist_metadata
        return data

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        super()._persist_metadata(rolename, data)
        self.verified_bytes[rolename] = data

    def _persist_root(self, version: int, data: bytes) -> None:
        super()._persist_root(version, data)
        self._roots[version] = data


def clear_strangers(cache: Path) -> None:
    """Makes the cache folder, and takes out of it what python-tuf did not put there: it holds files, and one link.

    A folder or a link in a file's place would fail every poll, a pipe would hang it (F06).

    Raises:
        OSError: it cannot be made or cleared.
    """
    if not cache.is_dir():
        cache.unlink(missing_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    history = cache / "root_history"
    if history.is_symlink() or not history.is_dir():
        history.unlink(missing_ok=True)
    for entry in [*cache.iterdir(), *(history.iterdir() if history.is_dir() else ())]:
        kind = entry.lstat().st_mode
        if stat.S_ISREG(kind) or entry == history or (entry == cache / "root.json" and stat.S_ISLNK(kind)):
            continue
        logger.warning("removed from the metadata cache: %r", entry.name)
        shutil.rmtree(entry) if stat.S_ISDIR(kind) else entry.unlink()


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """The one border between python-tuf's errors and our reason codes.

    The order matters: subclasses before their bases.
    """
    try:
        yield
    except SealiftError:
        raise
    except BadVersionNumberError as e:
        raise TrustError(
            f"metadata version is not acceptable: {e}",
            code="metadata_rollback",
            where=where,
            hint="an old or mixed state is shown; the running model stays",
        ) from e
    except ExpiredMetadataError as e:
        raise TrustError(
            f"metadata has expired: {e}",
            code="metadata_expired",
            where=where,
            hint="ask the operator of the server to renew it, and check this device's clock",
        ) from e
    except UnsignedMetadataError as e:
        raise TrustError(
            f"metadata is not signed by its role: {e}",
            code="signature_threshold",
            where=where,
            hint="the running model stays; ask the release team",
        ) from e
    except LengthOrHashMismatchError as e:
        raise TrustError(f"metadata does not match what names it: {e}", code="metadata_mismatch", where=where) from e
    except RepositoryError as e:
        raise TrustError(f"metadata is not valid: {e}"[:300], code="metadata_invalid", where=where) from e
    except DownloadLengthMismatchError as e:
        raise LimitError("metadata is longer than its cap", code="too_large", where=where) from e
    except SlowRetrievalError as e:
        raise TransportError("metadata arrives too slowly", code="transport_slow", where=where, hint="try again") from e
    except DownloadHTTPError as e:
        raise TransportError(
            "the server does not give a metadata file",
            code="metadata_unavailable",
            where=where,
            actual=f"status {e.status_code}",
            hint="try again later",
        ) from e
    except DownloadError as e:
        raise TransportError(
            "the server cannot be reached", code="transport", where=where, hint="check the URL and the network"
        ) from e
    except (ValueError, KeyError, TypeError) as e:
        raise FormatError(f"not TUF metadata: {e}"[:200], code="metadata_syntax", where=where) from e
