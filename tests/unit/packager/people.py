"""People with keys, and the repository that they made in a ceremony; for tests of signing and publishing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key

from device_client.trust.times import utc_now
from packager.ceremony import hold_first_ceremony
from packager.roles import RoleKeys, Roles
from packager.staging import DirStaging

LINE = "clinic"
RELEASE, AUDIT = f"release-{LINE}", f"audit-{LINE}"
_COUNTS = {"root": 2, "targets": 1, "snapshot": 1, "timestamp": 1, RELEASE: 2, AUDIT: 2}


def _signers() -> dict[str, list[CryptoSigner]]:
    return {role: [CryptoSigner.generate_ed25519() for _ in range(count)] for role, count in _COUNTS.items()}


@dataclass
class People:
    """Every signer by role, a fixed time, and a staging folder with the first ceremony held."""

    folder: Path
    now: datetime = field(default_factory=utc_now)
    signers: dict[str, list[CryptoSigner]] = field(default_factory=_signers)

    def __post_init__(self) -> None:
        self.staging = DirStaging(self.folder)

    def roles(self) -> Roles:
        """The roles file that these people would write."""

        def role(name: str, days: int) -> RoleKeys:
            keys: tuple[Key, ...] = tuple(signer.public_key for signer in self.signers[name])
            return RoleKeys(keys, len(keys), timedelta(days=days))

        top = {name: role(name, 90) for name in ("root", "targets", "snapshot", "timestamp")}
        return Roles(**top, delegated={RELEASE: role(RELEASE, 90), AUDIT: role(AUDIT, 30)})

    def hold_ceremony(self) -> People:
        """Root and targets, version 1."""
        signers = [*self.signers["root"], *self.signers["targets"]]
        hold_first_ceremony(self.roles(), signers=signers, staging=self.staging, now=self.now)
        return self
