"""Who holds which keys in the demo: one passphrase file for each person, one encrypted key file for each key."""

from __future__ import annotations

import secrets
from pathlib import Path

from securesystemslib.signer import Signer

from demo.attacker import StolenKeys
from demo.processes import Workshop
from device_client.trust.files import write_new
from device_client.trust.keys import load_signer

# holder -> the keys that this holder's passphrase opens
HOLDERS = {
    "ceremony": ("root-a", "root-b", "targets"),
    "online": ("snapshot", "timestamp"),
    "release-a": ("release-a",),
    "release-b": ("release-b",),
    "audit-a": ("audit-a",),
    "audit-b": ("audit-b",),
}
ROLES_TOML = """\
schema = 1

[root]
keys = ["root-a.pub", "root-b.pub"]
threshold = 2

[targets]
keys = ["targets.pub"]

[snapshot]
keys = ["snapshot.pub"]

[timestamp]
keys = ["timestamp.pub"]

[lines.digits.release]
keys = ["release-a.pub", "release-b.pub"]
threshold = 2

[lines.digits.audit]
keys = ["audit-a.pub", "audit-b.pub"]
threshold = 2
"""
_ROLE_KEYS = {
    "targets": ("targets",),
    "snapshot": ("snapshot",),
    "timestamp": ("timestamp",),
    "release-digits": ("release-a", "release-b"),
    "audit-digits": ("audit-a", "audit-b"),
}


def make_keys(workshop: Workshop) -> int:
    """Makes every key with `sealift keys new`; returns how many."""
    for holder, names in HOLDERS.items():
        write_new(workshop.folder / "secrets" / holder, secrets.token_urlsafe(24).encode(), mode=0o600)
        for name in names:
            workshop.run(f"keys new keys/{name}.key", holder=holder)
            (workshop.folder / "keys" / f"{name}.key.pub").rename(workshop.folder / "keys" / f"{name}.pub")
    write_new(workshop.folder / "keys" / "roles.toml", ROLES_TOML.encode())
    return sum(len(names) for names in HOLDERS.values())


def steal_keys(folder: Path) -> StolenKeys:
    """Opens every key of the demo, for the attacks: each says which of them its attacker holds."""
    holder_of = {name: holder for holder, names in HOLDERS.items() for name in names}

    def open_key(name: str) -> Signer:
        passphrase = (folder / "secrets" / holder_of[name]).read_bytes()
        return load_signer(f"file:{folder / 'keys' / name}.key", passphrase=lambda _: passphrase)

    return StolenKeys({role: tuple(open_key(name) for name in names) for role, names in _ROLE_KEYS.items()})
