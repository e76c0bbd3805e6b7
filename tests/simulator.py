"""An in-memory repository: real keys, real metadata, the production client. Tests change one thing and refresh.

sim = RepositorySimulator()
sim.release("1.0.0", counter=1)
trusted = sim.refresh(cache)
trusted.agree(sim.path("1.0.0"))
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
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
from tuf.ngclient import FetcherInterface

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.trust.client import MetadataClient, Remember
from device_client.trust.custom import AuditCustom, PolicyRef, ReleaseCustom, Rollout, VariantVerdict
from device_client.trust.marks import Marks
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time
from device_client.trust.trusted_metadata import TrustedMetadata
from device_client.trust.trusted_time import BootTime

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
LINE, MODEL = "digits", "ocr"
RELEASE, AUDIT = f"release-{LINE}", f"audit-{LINE}"
_DAYS = {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 1, RELEASE: 60, AUDIT: 30}


def stamp(signed: Any, days: int, *, now: datetime = NOW) -> Any:
    """Gives a role its issue and expiry times."""
    signed.expires = now + timedelta(days=days)
    signed.unrecognized_fields["issued"] = format_time(now)
    return signed


@dataclass
class RepositorySimulator(FetcherInterface):
    """Holds the roles as objects; signs and serialises them when asked. ``served`` overrides files by name."""

    now: datetime = NOW
    signers: dict[str, list[CryptoSigner]] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    uptime: BootTime = field(default_factory=lambda: BootTime("boot-1", 0.0))
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for role in ("root", "targets", "snapshot", "timestamp", RELEASE, AUDIT):
            count = 2 if role in {"root", RELEASE, AUDIT} else 1
            self.signers[role] = [CryptoSigner.generate_ed25519() for _ in range(count)]
        self._root_signers_before = self.signers["root"]
        self.root = stamp(Root(version=1, consistent_snapshot=True), _DAYS["root"], now=self.now)
        for role in ("root", "targets", "snapshot", "timestamp"):
            for signer in self.signers[role]:
                self.root.add_key(signer.public_key, role)
            self.root.roles[role].threshold = len(self.signers[role])
        keys = {signer.public_key.keyid: signer.public_key for role in (RELEASE, AUDIT) for signer in self.signers[role]}
        roles = {
            role: DelegatedRole(
                role,
                [s.public_key.keyid for s in self.signers[role]],
                2,
                terminating=True,
                paths=[f"{role.split('-')[0]}/{LINE}/*/*"],
            )
            for role in (RELEASE, AUDIT)
        }
        self.targets = stamp(Targets(version=1, delegations=Delegations(keys, roles)), _DAYS["targets"], now=self.now)
        self.delegated: dict[str, Targets] = {}
        self.snapshot = stamp(Snapshot(version=1, meta={"targets.json": MetaFile(1)}), _DAYS["snapshot"], now=self.now)
        self.timestamp = stamp(Timestamp(version=1, snapshot_meta=MetaFile(1)), _DAYS["timestamp"], now=self.now)
        self.bootstrap = self.role_bytes("root")

    @staticmethod
    def path(version: str) -> BundlePath:
        """The bundle path of a version of the simulator's model."""
        return BundlePath(LINE, MODEL, version)

    def delegated_role(self, role: str) -> Targets:
        """The delegated role's object, made on first use."""
        if role not in self.delegated:
            self.delegated[role] = stamp(Targets(version=1), _DAYS[role], now=self.now)
            self.delegated[role].version = 0  # `publish` makes it 1
        return self.delegated[role]

    def add_release_entry(self, version: str, *, counter: Counter, manifest: bytes, custom: dict[str, Any] | None = None) -> None:
        """Lists a manifest under the release role."""
        record = custom or ReleaseCustom(counter, Counter(0, 0), BlobRef.of(b"measurements"), Rollout()).to_json()
        self._add(RELEASE, self.path(version).release_target, manifest, record)

    def add_audit_entry(
        self,
        version: str,
        *,
        counter: Counter,
        manifest: bytes,
        variants: tuple[Digest, ...] = (),
        custom: dict[str, Any] | None = None,
    ) -> None:
        """Lists a manifest under the audit role, with a PASSED verdict for each of ``variants``."""
        verdict = VariantVerdict("PASSED", "quick", self.now + timedelta(days=20), BlobRef.of(b"attestation"))
        record = AuditCustom(
            seq=len(self.delegated_role(AUDIT).targets) + 1,
            counter=counter,
            floor=Counter(0, 0),
            status="active",
            reason="",
            policy=PolicyRef("test", 1, Digest.of(b"policy")),
            suite="test",
            threat_model="white_box",
            variants=dict.fromkeys(variants, verdict),
        ).to_json()
        self._add(AUDIT, self.path(version).audit_target, manifest, custom or record)

    def release(self, version: str, *, counter: int, manifest: bytes | None = None) -> bytes:
        """Both roles list one manifest, and the online roles follow."""
        data = manifest if manifest is not None else f"manifest of {version}".encode()
        self.add_release_entry(version, counter=Counter(0, counter), manifest=data)
        self.add_audit_entry(version, counter=Counter(0, counter), manifest=data)
        self.publish(RELEASE, AUDIT)
        return data

    def publish(self, *roles: str) -> None:
        """Raises the version of ``roles``, of snapshot and of timestamp."""
        for role in roles:
            signed = self.targets if role == "targets" else self.delegated_role(role)
            signed.version += 1
            self.snapshot.meta[f"{role}.json"] = MetaFile(signed.version)
        self.snapshot.version += 1
        self.timestamp.version += 1
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)

    def role_bytes(self, role: str) -> bytes:
        """The signed file of a role, as it is now."""
        signed = {"root": self.root, "targets": self.targets, "snapshot": self.snapshot, "timestamp": self.timestamp}.get(role)
        metadata: Metadata[Any] = Metadata(copy.deepcopy(signed if signed is not None else self.delegated[role]))
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(JSONSerializer(compact=True))

    def refresh(
        self,
        cache: Path,
        *,
        marks: Marks | None = None,
        now: datetime | None = None,
        remember: Remember | None = None,
        **options: Any,
    ) -> TrustedMetadata:
        """One poll by the production client; ``options`` go to ``MetadataClient``."""
        client = MetadataClient(
            metadata_dir=cache,
            base_url="http://simulator/tuf/",
            bootstrap=options.pop("bootstrap", self.bootstrap),
            clock=lambda: now or self.now,
            uptime=lambda: self.uptime,
            fetcher=self,
            **options,
        )
        return client.refresh(marks or Marks(), remember)

    def split_into_bins(self, role: str, *, bits: int = 2, signers: list[CryptoSigner] | None = None, threshold: int = 2) -> None:
        """Moves all entries of a delegated role into bins of it, signed by its own keys unless told otherwise."""
        parent = self.delegated_role(role)
        keys = signers or self.signers[role]
        bins = SuccinctRoles([signer.public_key.keyid for signer in keys], threshold, bits, role)
        parent.delegations = Delegations({signer.public_key.keyid: signer.public_key for signer in keys}, succinct_roles=bins)
        entries, parent.targets = parent.targets, {}
        for name in bins.get_roles():
            self.signers[name] = keys
            _DAYS[name] = _DAYS[role]
            listed = {path: entry for path, entry in entries.items() if bins.get_role_for_target(path) == name}
            self.delegated_role(name).targets = listed
        self.publish(role, *bins.get_roles())

    def rotate(self, role: str, signers: list[CryptoSigner] | None = None) -> None:
        """Replaces the keys of a top-level role by root, which gets its next version."""
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        self.signers[role] = signers or [CryptoSigner.generate_ed25519() for _ in self.signers[role]]
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)
        self.next_root()

    def next_root(self) -> None:
        """Publishes the root as it is now as its next version, signed by the keys before and after; earlier ones stay served."""
        self.root.version += 1
        metadata: Metadata[Any] = Metadata(copy.deepcopy(self.root))
        for signer in [*self._root_signers_before, *self.signers["root"]]:
            metadata.sign(signer, append=True)
        self._root_signers_before = self.signers["root"]
        self.served[f"{self.root.version}.root.json"] = metadata.to_bytes(JSONSerializer(compact=True))

    def rotate_delegated(self, role: str) -> None:
        """Replaces the keys of a delegated role by targets; both get their next versions."""
        assert self.targets.delegations is not None
        assert self.targets.delegations.roles is not None
        self.signers[role] = [CryptoSigner.generate_ed25519() for _ in self.signers[role]]
        self.targets.delegations.keys |= {signer.public_key.keyid: signer.public_key for signer in self.signers[role]}
        self.targets.delegations.roles[role].keyids = [signer.public_key.keyid for signer in self.signers[role]]
        self.publish("targets", role)

    def _add(self, role: str, target: str, manifest: bytes, record: dict[str, Any]) -> None:
        digest = Digest.of(manifest)
        self.delegated_role(role).targets[target] = TargetFile(len(manifest), {"sha256": digest.hex}, target, {"custom": record})

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[1]
        self.requests.append(name)
        if name in self.served:
            return iter([self.served[name]])
        version, _, rest = name.partition(".")
        role = rest.removesuffix(".json") if version.isdigit() else name.removesuffix(".json")
        current = {"root": self.root.version, "targets": self.targets.version, "snapshot": self.snapshot.version}
        current |= {name: signed.version for name, signed in self.delegated.items()}
        if role != "timestamp" and (role not in current or int(version) != current[role]):
            raise DownloadHTTPError(f"no such file {name}", 404)
        return iter([self.role_bytes(role)])
