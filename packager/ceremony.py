"""The first ceremony: root and targets version 1 from ``roles.toml``, signed by the keys that are present.

Nothing is written until both roles meet their thresholds, so a failed ceremony leaves no half repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Signer

from device_client.bundle.digest import Digest
from device_client.errors import UsageError
from device_client.trust.keys import public_value
from packager.repository import add_signature, new_root, new_targets, role_keys, signatures_of, to_bytes
from packager.roles import Roles
from packager.staging import DirStaging


@dataclass(frozen=True)
class CeremonyResult:
    """``root_digest`` is what devices are provisioned with, read out loud and compared."""

    root_digest: Digest
    roles: tuple[str, ...]


def hold_first_ceremony(roles: Roles, *, signers: Sequence[Signer], staging: DirStaging, now: datetime) -> CeremonyResult:
    """Writes ``1.root.json`` and ``1.targets.json`` into ``staging``.

    Raises:
        UsageError: ``threshold_missing`` if the signers cannot sign for both roles, ``key_not_in_role`` for one that
            belongs to neither, ``repository_exists`` if there is a root already.
    """
    if staging.role_bytes("root") is not None:
        raise UsageError(
            "there is a repository here already",
            code="repository_exists",
            where=staging.name,
            hint="`sealift keys show` shows it; choose an empty folder",
        )
    root, targets = new_root(roles, now=now), new_targets(roles, now=now)
    used: set[bytes] = set()
    for role, metadata in (("root", root), ("targets", targets)):
        keys, threshold = role_keys(role, root=root, targets=targets)
        values = {public_value(key) for key in keys}
        for signer in signers:
            if public_value(signer.public_key) in values:
                add_signature(metadata, signer=signer, role_keys=keys, role=role, now=now)
                used.add(public_value(signer.public_key))
        state = signatures_of(metadata, keys=keys, threshold=threshold)
        if state.needed:
            raise UsageError(
                "not enough keys for the role",
                code="threshold_missing",
                where=role,
                expected=f"{threshold} signatures",
                actual=len(state.signed),
                hint="give more --key options",
            )
    for signer in signers:
        if public_value(signer.public_key) not in used:
            raise UsageError("this key signs neither root nor targets", code="key_not_in_role", actual=signer.public_key.keyid)
    root_bytes = to_bytes(root)
    staging.write_role("targets", 1, to_bytes(targets))
    staging.write_role("root", 1, root_bytes)  # last: a repository exists once it has a root
    return CeremonyResult(Digest.of(root_bytes), ("root", "targets", *roles.delegated))
