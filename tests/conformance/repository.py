"""A TUF repository of any shape, good or bad: roles are objects that a case changes, signs and publishes.

Unlike ``tests/simulator.py`` it is no Sealift repository: any delegation, threshold, key type and broken form goes, since
the client under test speaks plain TUF. What was published stays served, as on a web server.

    repo = Repository()
    repo.publish("targets")                   # the next version of targets, and of snapshot and timestamp
    repo.instead["timestamp.json"] = Answer(status=503)
    repo.instead.clear()                      # honest again
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from device_client.trust.times import format_time, utc_now

TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")
_DAYS = {"root": 365, "timestamp": 1, "snapshot": 7}
_DAYS_OF_TARGETS = 30
_GENERATE: dict[str, Callable[[str | None], CryptoSigner]] = {
    "ed25519": CryptoSigner.generate_ed25519,
    "ecdsa": lambda keyid: CryptoSigner.generate_ecdsa(keyid, scheme="ecdsa-sha2-nistp256"),
    "rsa": lambda keyid: CryptoSigner.generate_rsa(keyid, scheme="rsassa-pss-sha256", size=2048),
    "ml-dsa-65": lambda keyid: CryptoSigner.generate_mldsa(keyid, scheme="ml-dsa-65/1"),
}


@dataclass(frozen=True)
class Answer:
    """What the server says to one request.

    Attributes:
        claimed_bytes: a ``Content-Length`` that is not the body's.
        is_chunked: sent in chunks, without a length.
        is_endless: ``body`` again and again, until the client hangs up.
        pause_s: the wait after each byte.
    """

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    claimed_bytes: int | None = None
    is_chunked: bool = False
    is_endless: bool = False
    pause_s: float = 0.0


def new_signer(scheme: str = "ed25519", *, keyid: str | None = None) -> CryptoSigner:
    """A new key pair; ``keyid`` in the place of the usual id, which is the key's hash."""
    return _GENERATE[scheme](keyid)


def under_id(signer: CryptoSigner, keyid: str) -> CryptoSigner:
    """The same key pair under another id."""
    key = signer.public_key
    return CryptoSigner(signer._private_key, SSlibKey(keyid, key.keytype, key.scheme, dict(key.keyval)))


def to_json(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def signed_file(signed: object, signers: Iterable[CryptoSigner]) -> bytes:
    """A role file whose content no TUF library would write: ``signed`` is any JSON value without floats."""
    payload = encode_canonical(signed).encode()
    return to_json({"signatures": [signer.sign(payload).to_dict() for signer in signers], "signed": signed})


class Repository:
    """The repository with what it serves and what it was asked.

    Attributes:
        roles: every role as it will be signed next.
        signers: who signs it next.
        history: the bytes of every role and version that was ever published.
        files: what is served, by path below the repository's address.
        instead: answers that are given in the place of a metadata file, by file name.
        requests: what was asked for, in order: the file name of metadata, else the whole path.
        sent_bytes: how much the server could send of each endless answer.
    """

    def __init__(
        self, *, schemes: Sequence[str] = ("ed25519",), threshold: int = 1, is_consistent: bool = True, with_hashes: bool = False
    ) -> None:
        self.now = utc_now()
        self.with_hashes = with_hashes
        self.roles: dict[str, Any] = {
            "root": Root(consistent_snapshot=is_consistent),
            "timestamp": Timestamp(),
            "snapshot": Snapshot(),
            "targets": Targets(),
        }
        self.signers: dict[str, list[CryptoSigner]] = {}
        self.history: dict[str, dict[int, bytes]] = {}
        self.files: dict[str, Answer] = {}
        self.instead: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.sent_bytes: dict[str, int] = {}
        for role in TOP_LEVEL:
            self.renew(role)
            self.give_keys(role, [new_signer(scheme) for scheme in schemes], threshold=threshold)
        self.publish("root", "targets")

    @property
    def root(self) -> Root:
        found: Root = self.roles["root"]
        return found

    @property
    def timestamp(self) -> Timestamp:
        found: Timestamp = self.roles["timestamp"]
        return found

    @property
    def snapshot(self) -> Snapshot:
        found: Snapshot = self.roles["snapshot"]
        return found

    def targets(self, role: str = "targets") -> Targets:
        """Top-level targets, or a delegated role."""
        found: Targets = self.roles[role]
        return found

    # Keys and dates.

    def give_keys(self, role: str, signers: Sequence[CryptoSigner], *, threshold: int | None = None) -> list[CryptoSigner]:
        """Root names these keys for ``role`` in the place of those before, which are returned; publish root to make it so."""
        before = self.signers.get(role, [])
        delegation = self.root.roles[role]
        for keyid in list(delegation.keyids):
            self.root.revoke_key(keyid, role)
        for signer in signers:
            self.root.add_key(signer.public_key, role)
        delegation.threshold = threshold if threshold is not None else delegation.threshold
        self.signers[role] = list(signers)
        return before

    def renew(self, role: str, *, expires_in: timedelta | None = None) -> None:
        """Sets the dates that the role's next version carries."""
        signed = self.roles[role]
        lifetime = timedelta(days=_DAYS.get(role, _DAYS_OF_TARGETS)) if expires_in is None else expires_in
        signed.expires = self.now + lifetime
        signed.unrecognized_fields["issued"] = format_time(min(self.now, signed.expires - timedelta(days=1)))

    # Publishing.

    def publish(self, *roles: str) -> None:
        """The next version of each of ``roles``, and of snapshot and timestamp where those follow."""
        for role in roles:
            if role not in {"snapshot", "timestamp"}:
                self.issue(role)
        if set(roles) - {"root", "timestamp"}:
            self.issue("snapshot")
        if set(roles) - {"root"}:
            self.issue("timestamp")

    def issue(self, role: str, *, version: int | None = None) -> bytes:
        """Signs and serves one role alone, as its next version or as ``version``, and says so in the role that lists it."""
        signed = self.roles[role]
        signed.version = version if version is not None else max(self.history.get(role, {0: b""})) + 1
        data = self.sign(role)
        self.history.setdefault(role, {})[signed.version] = data
        self.files[f"metadata/{self.name(role)}"] = Answer(data)
        if role not in {"root", "timestamp"}:
            listed = MetaFile(signed.version)
            if self.with_hashes:
                listed = MetaFile(signed.version, len(data), {"sha256": sha256(data).hexdigest()})
            if role == "snapshot":
                self.timestamp.snapshot_meta = listed
            else:
                self.snapshot.meta[f"{role}.json"] = listed
        return data

    def sign(self, role: str) -> bytes:
        """The role as it is now, signed by its signers."""
        metadata: Metadata[Any] = Metadata(self.roles[role])
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(JSONSerializer(compact=True))

    def newest(self, role: str) -> bytes:
        """The file that was published last."""
        return self.history[role][max(self.history[role])]

    def name(self, role: str, version: int | None = None) -> str:
        """The role's file name in a request."""
        quoted = quote(role, safe="")
        if role == "timestamp" or (role != "root" and not self.root.consistent_snapshot):
            return f"{quoted}.json"
        return f"{version or self.roles[role].version}.{quoted}.json"

    # What is listed.

    def add_artifact(
        self,
        path: str,
        data: bytes,
        *,
        role: str = "targets",
        hashes: Sequence[str] = ("sha256",),
        served: Answer | None = None,
    ) -> str:
        """Lists ``data`` under ``role`` and serves it, or ``served`` in its place; returns the request for its first hash."""
        entry = TargetFile.from_data(path, data, list(hashes))
        self.targets(role).targets[path] = entry
        folder, slash, file = path.rpartition("/")
        prefixes = [f"{value}." for _, value in sorted(entry.hashes.items())] if self.root.consistent_snapshot else [""]
        for prefix in prefixes:  # a client may ask by any of the hashes
            self.files[f"targets/{folder}{slash}{prefix}{file}"] = served or Answer(data)
        return f"targets/{folder}{slash}{prefixes[0]}{file}"

    def delegate(
        self,
        role: str,
        *paths: str,
        parent: str = "targets",
        terminating: bool = False,
        signers: Sequence[CryptoSigner] | None = None,
        threshold: int = 1,
        hash_prefixes: Sequence[str] | None = None,
    ) -> list[CryptoSigner]:
        """Makes ``parent`` delegate ``paths`` to ``role``, by keys of its own; returns them. Publish both to make it so."""
        keys = list(signers) if signers is not None else [new_signer()]
        delegator = self.targets(parent)
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        assert delegator.delegations.roles is not None
        delegator.delegations.keys.update({key.public_key.keyid: key.public_key for key in keys})
        delegator.delegations.roles[role] = DelegatedRole(
            role,
            [key.public_key.keyid for key in keys],
            threshold,
            terminating,
            None if hash_prefixes else list(paths),
            list(hash_prefixes) if hash_prefixes else None,
        )
        if role not in self.roles:
            self.roles[role] = Targets()
            self.renew(role)
            self.signers[role] = keys
        return keys

    def delegate_bins(self, *, bits: int, prefix: str, parent: str = "targets") -> SuccinctRoles:
        """Makes ``parent`` delegate everything to hash bins under one new key (TAP 15)."""
        key = new_signer()
        bins = SuccinctRoles([key.public_key.keyid], 1, bits, prefix)
        self.targets(parent).delegations = Delegations({key.public_key.keyid: key.public_key}, None, bins)
        for role in bins.get_roles():
            self.roles[role] = Targets()
            self.renew(role)
            self.signers[role] = [key]
        return bins

    # For the server.

    def answer(self, path: str) -> Answer:
        """Notes the request and finds the answer."""
        name = path.removeprefix("metadata/")
        self.requests.append(name)
        if path.startswith("metadata/") and name in self.instead:
            return self.instead[name]
        return self.files.get(path, Answer(status=404))


def tampered(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A published file with its content changed and its signatures kept."""
    value = json.loads(data)
    change(value)
    return to_json(value)


def resigned(data: bytes, change: Callable[[dict[str, Any]], None], signers: Iterable[CryptoSigner]) -> bytes:
    """A published file with its signed part changed, and signed again."""
    signed = json.loads(data)["signed"]
    change(signed)
    return signed_file(signed, signers)
