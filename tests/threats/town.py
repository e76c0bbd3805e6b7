"""What stands before any attack: keys, a server, two honest releases, and a device that runs the first.

Built once for all tests by the real ceremony functions, publisher's client, server and device; each test gets a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata

from demo.attacker import StolenKeys
from demo.names import AUDIT, FIRST, FIRST_COUNTER, LINE, MODEL, RELEASE, SECOND
from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.install.enroll import enroll
from device_client.install.folder import init_device
from device_client.install.poll import poll
from device_client.policy.policy import DEFAULT_POLICY_TEXT
from device_client.trust.attestation import PAYLOAD_TYPE, build_statement
from device_client.trust.custom import Rollout
from device_client.trust.dsse import sign_envelope
from device_client.trust.keys import load_signer, new_key_file
from device_client.trust.times import utc_now
from packager.http_staging import HttpStaging
from packager.publish import plan_publish, publish_plan
from packager.repository import new_root, new_targets, to_bytes
from packager.roles import RoleKeys, Roles
from packager.sign import Draft, prepare_audit, prepare_release, store_signed
from tests.statements import passed
from tests.threats.loopback import LoopbackServer
from tests.threats.sealed import Sealed, seal
from update_server.data_folder import init_server
from update_server.settings import Settings

THE_MODEL = ModelPath(LINE, MODEL)
PASSPHRASE = b"a passphrase for tests"
_ONLINE = ("snapshot", "timestamp")
_OFFLINE = ("root", "targets", RELEASE, AUDIT)
_DAYS = {"root": 365, "targets": 180, "snapshot": 7, "timestamp": 1, RELEASE: 90, AUDIT: 30}


@dataclass(frozen=True)
class Town:
    """The folder with ``server``, ``device`` and ``bundles``, and every key.

    Attributes:
        url: what the device took for its server's address.
        first: the release that the device runs.
        second: the release that is published and offered, and that the device has not seen; it computes something else.
        old_timestamp: one that was replaced before the device came.
    """

    folder: Path
    url: str
    keys: StolenKeys
    first: Sealed
    second: Sealed
    old_timestamp: bytes


def build_town(folder: Path) -> Town:
    """Makes everything; takes about a second."""
    keys = _make_keys(folder)
    root = _hold_ceremony(folder, keys)
    _init_server(folder, keys)
    first = seal(folder / "bundles", version=FIRST, counter=FIRST_COUNTER, seed=1)
    second = seal(folder / "bundles", version=SECOND, counter=FIRST_COUNTER + 1, seed=2)
    with LoopbackServer(folder / "server", passphrase=PASSPHRASE) as server:
        old_timestamp = (folder / "server" / "tuf" / "timestamp.json").read_bytes()
        publish(first, url=server.url, tokens=folder / "tokens", keys=keys)
        device = init_device(
            folder / "device",
            root=root,
            root_sha256=Digest.of(root),
            server=server.url,
            models=(THE_MODEL,),
            policy=DEFAULT_POLICY_TEXT.replace("minutes = 10", "minutes = 0").encode(),  # committed by the poll that activates
        )
        enroll(device)
        result = poll(device, THE_MODEL)
        if result.result != "installed" or result.reports_waiting:
            raise AssertionError(f"the honest release did not install: {result}")
        publish(second, url=server.url, tokens=folder / "tokens", keys=keys)
        return Town(folder, server.url, keys, first, second, old_timestamp)


def publish(sealed: Sealed, *, url: str, tokens: Path, keys: StolenKeys, expires: timedelta = timedelta(days=20)) -> None:
    """Both teams sign and publish, as `sealift sign` and `sealift publish` do."""
    now = utc_now()
    for role in (RELEASE, AUDIT):
        staging = HttpStaging(url, token=(tokens / f"{role}.token").read_text().strip())
        draft = _prepare(role, sealed, staging, keys.of(AUDIT)[:1], expires=now + expires)
        store_signed(draft, signers=keys.of(role), staging=staging, replace=False, now=now)
        plan = plan_publish([(sealed.folder, sealed.bundle)], staging=staging, roles=[role], now=now)
        publish_plan(plan, staging=staging)


def _prepare(role: str, sealed: Sealed, staging: HttpStaging, auditors: Sequence[Signer], *, expires: datetime) -> Draft:
    now = utc_now()
    if role == RELEASE:
        return prepare_release(
            sealed.bundle, staging=staging, measurements=sealed.measurements, floor=None, rollout=Rollout(), now=now
        )  # fmt: skip
    audit = passed(sealed.model, sealed.bundle.contract.variants[0].id, audited_at=now, expires=expires)
    attestation = sign_envelope(build_statement(audit), payload_type=PAYLOAD_TYPE, signers=auditors)
    return prepare_audit(sealed.bundle, staging=staging, attestations=[attestation], floor=None, now=now)


def _make_keys(folder: Path) -> StolenKeys:
    signers: dict[str, Sequence[Signer]] = {role: [CryptoSigner.generate_ed25519() for _ in range(2)] for role in _OFFLINE}
    (folder / "keys").mkdir()
    for role in _ONLINE:
        new_key_file(folder / "keys" / role, passphrase=PASSPHRASE)
        signers[role] = [load_signer(f"file:{folder / 'keys' / role}", passphrase=lambda _: PASSPHRASE)]
    return StolenKeys(signers)


def _hold_ceremony(folder: Path, keys: StolenKeys) -> bytes:
    def role(name: str) -> RoleKeys:
        public = tuple(signer.public_key for signer in keys.of(name))
        return RoleKeys(public, len(public), timedelta(days=_DAYS[name]))

    top = {name: role(name) for name in ("root", "targets", *_ONLINE)}
    roles = Roles(**top, delegated={name: role(name) for name in (RELEASE, AUDIT)})
    metadata = folder / "ceremony" / "metadata"
    metadata.mkdir(parents=True)
    root, targets = new_root(roles, now=utc_now()), new_targets(roles, now=utc_now())
    (metadata / "1.root.json").write_bytes(_signed(root, keys.of("root")))
    (metadata / "1.targets.json").write_bytes(_signed(targets, keys.of("targets")))
    return (metadata / "1.root.json").read_bytes()


def _signed(metadata: Metadata, signers: Sequence[Signer]) -> bytes:  # type: ignore[type-arg]  # root or targets
    for signer in signers:
        metadata.sign(signer, append=True)
    return to_bytes(metadata)


def _init_server(folder: Path, keys: StolenKeys) -> None:
    snapshot, timestamp = (f"file:{folder / 'keys' / role}" for role in _ONLINE)
    init_server(
        folder / "server",
        repo=folder / "ceremony",
        settings=Settings(snapshot, timestamp, accept_loopback_devices=True),
        snapshot_signer=keys.of("snapshot")[0],
        timestamp_signer=keys.of("timestamp")[0],
        tokens=folder / "tokens",
        now=utc_now(),
    )
