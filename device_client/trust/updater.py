"""python-tuf's ``Updater`` with two things added: strict reading of every file, and proof of what was accepted.

Uses private parts of python-tuf 7.0.1 (``_trusted_set`` with its ``_load_data``, ``_add`` and ``reference_time``, and the four
``_load_...`` steps); ``tests/unit/trust/test_ngclient_hooks.py`` goes red when one of them changes. Which keys must sign what,
and all of versions, hashes and expiry, stays python-tuf's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signature, Signed, Snapshot, Targets
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from device_client.bundle.digest import Digest
from device_client.errors import LimitError, VerificationError
from device_client.limits import Limits
from device_client.trust.foreign_errors import StrictError
from device_client.trust.rules import (
    check_form,
    check_keys_known,
    check_keys_unique,
    check_root_keys,
    keys_named,
    read_role,
    signed_form,
)

_WRONG_SHAPE = (ValueError, KeyError, TypeError, AttributeError, IndexError)  # python-tuf builds on whatever the file holds
Loaded = tuple[Signed, bytes, dict[str, Signature]]


@dataclass(frozen=True)
class Accepted:
    """A role that python-tuf took: its file, and the digest of what its keys signed.

    The digest is not of the file: anyone on the way can add a space or a signature, and would have the device call the honest
    file an equivocation.
    """

    signed: Signed
    data: bytes
    digest: Digest


class StrictUpdater(Updater):
    """One refresh. Every file, fetched or cached, is strict JSON and names each key once before python-tuf takes it.

    Args:
        metadata_dir: the cache.
        base_url: where the metadata is, ending in ``/``.
        bootstrap: bytes of the root that trust starts from.
        fetcher: how bytes are fetched.
        limits: caps for each role.

    Raises:
        FormatError, TrustError: the bootstrap root breaks a rule.
        RepositoryError: it does not sign itself.
    """

    def __init__(self, *, metadata_dir: Path, base_url: str, bootstrap: bytes, fetcher: FetcherInterface, limits: Limits) -> None:
        self.accepted: dict[str, Accepted] = {}
        self._limits = limits
        self._loaded: dict[int, Accepted] = {}
        config = UpdaterConfig(
            max_root_rotations=limits.max_root_rotations,
            root_max_length=limits.max_root_bytes,
            timestamp_max_length=limits.max_timestamp_bytes,
            snapshot_max_length=limits.max_snapshot_bytes,
            targets_max_length=limits.max_targets_bytes,
        )
        value = read_role(bootstrap, where="root", limits=limits)
        try:
            super().__init__(str(metadata_dir), base_url, fetcher=fetcher, config=config, bootstrap=bootstrap)
        except DeserializationError:
            check_keys_known(value, where="root")
            raise
        check_form(self.root, where="root")
        check_root_keys(self.root)
        self.roots: dict[int, bytes] = {self.root.version: bootstrap}
        self._stock_add = self._trusted_set._add
        self._trusted_set._load_data = self._load_strictly  # type: ignore[assignment]
        self._trusted_set._add = self._note  # type: ignore[method-assign]

    @property
    def root(self) -> Root:
        """The newest accepted root."""
        root: Root = self._trusted_set.root
        return root

    def signed(self, role: str) -> Signed:
        """An accepted role."""
        found: Signed = self._trusted_set[role]
        return found

    @property
    def snapshot(self) -> Snapshot:
        """The accepted snapshot."""
        snapshot: Snapshot = self._trusted_set.snapshot
        return snapshot

    @property
    def targets(self) -> Targets:
        """The accepted top-level targets."""
        targets: Targets = self._trusted_set.targets
        return targets

    def judge_expiry_at(self, now: datetime) -> None:
        """What every role loaded from now on must not have outlived."""
        self._trusted_set.reference_time = now

    def load_roots(self) -> None:
        """Every root from the bootstrap on, as far as the server has them.

        Raises:
            LimitError: ``root_chain_too_long``, after as many as the limit allows.
        """
        before, first = self.root.version, self.root
        try:
            self._load_root()
        finally:  # also when it breaks off: the next refresh begins at the last root of this one
            self._forget_rotated(first)
        if self.root.version - before >= self._limits.max_root_rotations:
            raise LimitError(
                "more root versions than one refresh may walk",
                code="root_chain_too_long",
                where="root",
                expected=f"fewer than {self._limits.max_root_rotations}",
                actual=f"{before} to {self.root.version} and possibly more",
                hint="poll again: what was verified is kept, and the next refresh goes on from there",
            )

    def _forget_rotated(self, before: Root) -> None:
        """Fast-forward recovery (TUF 5.3.11): python-tuf by itself forgets only the role whose own keys were rotated."""
        if any(_signers(before, role) != _signers(self.root, role) for role in ("timestamp", "snapshot")):
            for role in ("timestamp", "snapshot"):
                (Path(self._dir) / f"{role}.json").unlink(missing_ok=True)

    def load_top_level(self, role: str) -> None:
        """Timestamp, snapshot and targets, to be asked for in this order after the roots."""
        if role == "timestamp":
            self._load_timestamp()
        elif role == "snapshot":
            self._load_snapshot()
        else:
            self._load_targets("targets", "root")

    def load_delegated(self, role: str, delegator: str) -> Targets:
        """A delegated role, verified by the keys that ``delegator`` names for it."""
        return self._load_targets(role, delegator)

    def root_chain(self) -> Mapping[int, bytes]:
        """Root bytes by version, from the bootstrap to the newest."""
        return {version: self.roots[version] for version in range(min(self.roots), self.root.version + 1)}

    def _load_strictly(self, kind: type[Any], data: bytes, delegator: Any = None, role_name: str | None = None) -> Loaded:
        """In place of python-tuf's own reader, which parses leniently and makes the canonical form twice."""
        name = role_name or kind.type
        try:
            metadata, signed_bytes = self._parse(data, where=name)
        except VerificationError as e:
            raise StrictError(e) from e
        signed = metadata.signed
        if signed.type != kind.type:
            raise RepositoryError(f"Expected '{kind.type}', got '{signed.type}'")
        try:
            check_form(signed, where=name)
            if isinstance(delegator, Targets):  # those of root are looked at once for all, below
                check_keys_unique([(name, keys_named(delegator, delegator.get_delegated_role(name), where=name))])
            if delegator:
                delegator.verify_delegate(name, signed_bytes, metadata.signatures)
            if isinstance(signed, Root):
                check_root_keys(signed)
        except VerificationError as e:
            raise StrictError(e) from e
        self._loaded[id(signed)] = Accepted(signed, data, Digest.of(signed_bytes))
        return signed, signed_bytes, metadata.signatures

    def _parse(self, data: bytes, *, where: str) -> tuple[Metadata[Any], bytes]:
        """The role, and the bytes that its keys must have signed."""
        value: Any = read_role(data, where=where, limits=self._limits)
        try:
            signed_bytes = signed_form(value)  # first: the next line takes the value apart
            return Metadata.from_dict(value), signed_bytes
        except (DeserializationError, RepositoryError, *_WRONG_SHAPE) as e:
            check_keys_known(read_role(data, where=where, limits=self._limits), where=where)
            raise DeserializationError(f"not TUF metadata: {e}"[:200]) from e

    def _note(self, role: str, signed: Signed, delegator: str) -> None:
        self._stock_add(role, signed, delegator)
        self.accepted[role] = self._loaded[id(signed)]
        if isinstance(signed, Root):
            self.roots[signed.version] = self.accepted[role].data


def _signers(root: Root, role: str) -> tuple[frozenset[str], int]:
    found = root.get_delegated_role(role)
    return frozenset(found.keyids), found.threshold
