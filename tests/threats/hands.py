"""What holders and thieves of keys can write into the web root: any role, with any content, dated as they like.

Uses python-tuf and the keys alone; nothing of Sealift stands in the way. ``world.keys`` says who holds what.

hands = Hands(world)
hands.edit("release-digits", lambda role: role.targets.clear())      # the next version, announced by the online keys
hands.rotate("timestamp")                                           # the root keys replace a key
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp

from device_client.trust.files import write_atomic
from device_client.trust.rules import LIFETIME_CAPS
from device_client.trust.times import format_time
from packager.repository import to_bytes
from tests.threats.world import World

_DAYS = {"root": 365.0, "targets": 90.0, "release": 90.0, "audit": 30.0, "snapshot": 7.0, "timestamp": 1.0}


class Hands:
    """Writes into the web root of ``world``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tuf = world.data / "tuf"

    # Online roles.

    def renew(self, *, days: float | None = None) -> None:
        """The next timestamp over the same snapshot, dated now: what an honest server does every few hours."""
        timestamp = self.world.web.newest("timestamp")
        timestamp.signed.version += 1
        self.write("timestamp", timestamp, "timestamp.json", days=days)

    def announce(
        self,
        meta: Mapping[str, int] | None = None,
        *,
        change_snapshot: Callable[[Snapshot], None] = lambda _: None,
        change_timestamp: Callable[[Timestamp], None] = lambda _: None,
    ) -> None:
        """The next snapshot, with ``meta`` changed, and the next timestamp; both dated now unless a change says otherwise."""
        snapshot, timestamp = self.world.web.newest("snapshot"), self.world.web.newest("timestamp")
        snapshot.signed.version += 1
        snapshot.signed.meta |= {f"{role}.json": MetaFile(version) for role, version in (meta or {}).items()}
        self.date("snapshot", snapshot)
        change_snapshot(snapshot.signed)
        self.sign("snapshot", snapshot, f"{snapshot.signed.version}.snapshot.json")
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        self.date("timestamp", timestamp)
        change_timestamp(timestamp.signed)
        self.sign("timestamp", timestamp, "timestamp.json")

    # Offline roles.

    def edit(
        self,
        role: str,
        change: Callable[[Any], None] = lambda _: None,
        *,
        signers: Sequence[Signer] | None = None,
        days: float | None = None,
    ) -> None:
        """The next version of targets or of a delegated role, announced; ``change`` comes last and may also change its dates."""
        metadata = self.world.web.newest(role)
        metadata.signed.version += 1
        self.date(role, metadata, days=days)
        change(metadata.signed)
        self.sign(role, metadata, f"{metadata.signed.version}.{role}.json", signers=signers)
        self.announce({role: metadata.signed.version})

    def next_root(
        self, change: Callable[[Root], None] = lambda _: None, *, signers: Sequence[Signer] | None = None, days: float | None = None
    ) -> bytes:
        """The next version of root, signed by the root keys of before unless others are named."""
        metadata = self.newest_root()
        metadata.signed.version += 1
        self.date("root", metadata, days=days)
        change(metadata.signed)
        name = f"{metadata.signed.version}.root.json"
        self.sign("root", metadata, name, signers=signers)
        return (self.tuf / name).read_bytes()

    def newest_root(self) -> Metadata[Any]:
        """The newest root that is served."""
        newest = max(int(path.name.partition(".")[0]) for path in self.tuf.glob("*.root.json"))
        return Metadata.from_bytes((self.tuf / f"{newest}.root.json").read_bytes())

    # Rotations.

    def rotate(self, *roles: str) -> None:
        """Root replaces the keys of top-level roles; those of root itself sign with the old ones and the new ones."""
        before = list(self.world.keys["root"])
        fresh = {role: [CryptoSigner.generate_ed25519() for _ in self.world.keys[role]] for role in roles}

        def replace(root: Root) -> None:
            for role, signers in fresh.items():
                for keyid in list(root.roles[role].keyids):
                    root.revoke_key(keyid, role)
                for signer in signers:
                    root.add_key(signer.public_key, role)

        self.next_root(replace, signers=[*before, *fresh.get("root", [])])
        self.world.keys.update(fresh)

    def rotate_delegated(self, role: str) -> None:
        """Targets replaces the keys of a release or audit role, which is signed anew with them."""
        fresh = [CryptoSigner.generate_ed25519() for _ in self.world.keys[role]]

        def replace(targets: Any) -> None:
            targets.delegations.roles[role].keyids = [signer.public_key.keyid for signer in fresh]
            targets.delegations.keys |= {signer.public_key.keyid: signer.public_key for signer in fresh}

        self.edit("targets", replace)
        self.world.keys[role] = fresh

    # One file.

    def date(self, role: str, metadata: Metadata[Any], *, days: float | None = None, now: datetime | None = None) -> None:
        """Issued now, for its usual life or ``days``."""
        issued = now or self.world.true_time()
        metadata.signed.unrecognized_fields["issued"] = format_time(issued)
        metadata.signed.expires = issued + timedelta(days=_DAYS[role.partition("-")[0]] if days is None else days)

    def write(self, role: str, metadata: Metadata[Any], name: str, *, days: float | None = None) -> None:
        """Dates it, signs it and puts it there."""
        self.date(role, metadata, days=days)
        self.sign(role, metadata, name)

    def sign(self, role: str, metadata: Metadata[Any], name: str, *, signers: Sequence[Signer] | None = None) -> None:
        """Signs it as it is and puts it there."""
        signed = Metadata(copy.deepcopy(metadata.signed))
        for signer in self.world.keys[role] if signers is None else signers:
            signed.sign(signer, append=True)
        write_atomic(self.tuf / name, to_bytes(signed))


def cap(role: str) -> timedelta:
    """The longest life of an offline role."""
    return LIFETIME_CAPS[role.partition("-")[0]]
