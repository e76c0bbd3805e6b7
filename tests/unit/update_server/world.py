"""A server over a real ceremony with real keys, in this process; and what a publisher and a device do to it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from device_client.bundle.contract import Contract
from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.bundle.strict_json import canonical_json
from device_client.trust.attestation import PAYLOAD_TYPE, build_statement
from device_client.trust.channel import Channel
from device_client.trust.custom import AuditCustom, PolicyRef, ReleaseCustom, Rollout, VariantVerdict
from device_client.trust.dsse import sign_envelope
from device_client.trust.files import write_atomic
from device_client.trust.keys import fingerprint, key_to_json
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time
from packager.repository import new_root, new_targets, next_delegated, to_bytes
from packager.roles import RoleKeys, Roles
from tests.statements import passed, waived
from tests.unit.bundle.samples import MemorySource, sample_bundle, sample_contract
from tests.unit.inference.models import linear
from update_server import enrolment, reports
from update_server.app import create_app
from update_server.audience import Audience
from update_server.blobs import BlobStore
from update_server.data_folder import InitResult, init_server
from update_server.database import Database
from update_server.journal import Refusals
from update_server.publish import Publisher
from update_server.repository import OnlineRepository, WriteFile
from update_server.service import METADATA_FOLDER, Service
from update_server.settings import Settings, load_settings

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
LINE, MODEL = "clinic", "digits"
RELEASE, AUDIT = f"release-{LINE}", f"audit-{LINE}"
URL = "http://127.0.0.1:8470"
POLICY = PolicyRef("test", 1, Digest.of(b"policy"))
MEASUREMENTS = b'{"latency": "measured elsewhere"}'


@dataclass
class Clock:
    """Time that a test moves."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Keys:
    """Two keys for each offline role, one for each online role."""

    signers: dict[str, list[CryptoSigner]] = field(
        default_factory=lambda: {
            role: [CryptoSigner.generate_ed25519() for _ in range(1 if role in {"snapshot", "timestamp"} else 2)]
            for role in ("root", "targets", "snapshot", "timestamp", RELEASE, AUDIT)
        }
    )

    def roles(self) -> Roles:
        def role(name: str, days: int) -> RoleKeys:
            keys = tuple(signer.public_key for signer in self.signers[name])
            return RoleKeys(keys, len(keys), timedelta(days=days))

        return Roles(
            root=role("root", 365), targets=role("targets", 180), snapshot=role("snapshot", 7), timestamp=role("timestamp", 1),
            delegated={RELEASE: role(RELEASE, 90), AUDIT: role(AUDIT, 30)},
        )  # fmt: skip

    def signed(self, role: str, metadata: Metadata[Any], *, count: int | None = None) -> bytes:
        for signer in self.signers[role][:count]:
            metadata.sign(signer, append=True)
        return to_bytes(metadata)

    def write_ceremony(self, repo: Path) -> None:
        roles = self.roles()
        (repo / "metadata").mkdir(parents=True)
        (repo / "metadata" / "1.root.json").write_bytes(self.signed("root", new_root(roles, now=NOW)))
        (repo / "metadata" / "1.targets.json").write_bytes(self.signed("targets", new_targets(roles, now=NOW)))


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory, with its manifest's reference."""

    contract: Contract
    source: MemorySource
    manifest: BlobRef

    @property
    def path(self) -> BundlePath:
        return self.contract.path


def make_bundle(version: str = "1.0.0", counter: int = 1, *, model: bytes | None = None, line: str = LINE) -> Bundle:
    models = {"int8-static": linear().SerializeToString() if model is None else model}
    contract = dataclasses.replace(sample_contract(models=models, version=version), counter=Counter(0, counter), line=line)
    source, _, digest = sample_bundle(contract, models=models)
    return Bundle(contract, source, BlobRef(digest, len(source.blobs[digest])))


class World:
    """One server and the people around it."""

    def __init__(self, folder: Path, *, accept_loopback_devices: bool = True) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.clock = Clock()
        self.keys = Keys()
        self.keys.write_ceremony(folder / "repo")
        self.settings = Settings("file:/snapshot", "file:/timestamp", accept_loopback_devices=accept_loopback_devices)
        self.made = self.init(self.data, tokens=folder / "tokens")
        self.tokens = {role: path.read_text().strip() for role, path in self.made.token_files.items()}

    def init(self, data: Path, *, tokens: Path, **changes: Any) -> InitResult:
        arguments: dict[str, Any] = {
            "repo": self.folder / "repo",
            "settings": self.settings,
            "snapshot_signer": self.keys.signers["snapshot"][0],
            "timestamp_signer": self.keys.signers["timestamp"][0],
            "now": NOW,
        }
        return init_server(data, tokens=tokens, **(arguments | changes))

    @contextmanager
    def service(self, *, write: WriteFile = write_atomic) -> Iterator[Service]:
        """The parts of `open_service`, with keys in memory and a chosen way to write files."""
        repository = OnlineRepository(
            self.data / METADATA_FOLDER,
            snapshot_signer=self.keys.signers["snapshot"][0],
            timestamp_signer=self.keys.signers["timestamp"][0],
            clock=self.clock,
            write=write,
        )
        blobs = BlobStore(self.data / "blobs")
        database = Database(self.data / "server.db")
        try:
            publisher = Publisher(database, blobs, repository, clock=self.clock)
            publisher.reconcile()
            yield Service(
                load_settings(self.data), self.data / METADATA_FOLDER, self.data / "blobs", database, blobs, publisher,
                Audience(loopback=True), Refusals(database, clock=self.clock), self.clock,
            )  # fmt: skip
        finally:
            database.close()

    def release_draft(
        self, bundle: Bundle, *, current: Metadata[Targets] | None = None, signatures: int | None = None, **changes: Any
    ) -> tuple[bytes, dict[BlobRef, bytes]]:
        """A release role that adds the bundle and its channel, and the blobs that it lists."""
        counter = changes.get("counter", bundle.contract.counter)
        custom = ReleaseCustom(counter, Counter(0, 0), BlobRef.of(MEASUREMENTS), Rollout()).to_json()
        channel = Channel(changes.get("latest", bundle.path.version), counter, Counter(0, 0)).to_bytes()
        entries: dict[str, tuple[BlobRef, dict[str, object] | None]] = {
            changes.get("target", bundle.path.release_target): (bundle.manifest, custom),
            bundle.path.of_model.channel_target: (BlobRef.of(channel), None),
        }
        metadata = next_delegated(current, RELEASE, entries=entries, now=self.clock())
        blobs = {BlobRef.of(MEASUREMENTS): MEASUREMENTS, BlobRef.of(channel): channel}
        return self.keys.signed(RELEASE, metadata, count=signatures), blobs

    def audit_draft(
        self,
        bundle: Bundle,
        *,
        current: Metadata[Targets] | None = None,
        seq: int = 1,
        signers: Sequence[CryptoSigner] = (),
        **changes: Any,
    ) -> tuple[bytes, dict[BlobRef, bytes]]:
        """An audit role that adds a verdict on each variant, and the attestations."""
        now, blobs, verdicts = self.clock(), {}, {}
        for variant in bundle.contract.variants:
            subject = changes.get("subject", variant.model.digest)
            statement = waived if changes.get("verdict") == "WAIVED" else passed
            audit = statement(variant.model.digest, variant.id, policy=POLICY, audited_at=now, expires=now + timedelta(days=20))
            envelope = sign_envelope(
                build_statement(audit), payload_type=PAYLOAD_TYPE, signers=signers or self.keys.signers[AUDIT][:1]
            )
            verdict = changes.get("verdict", "PASSED")
            verdicts[subject] = VariantVerdict(verdict, "quick", audit.expires, BlobRef.of(envelope))
            blobs[BlobRef.of(envelope)] = envelope
        status = changes.get("status", "active")
        custom = AuditCustom(
            seq, bundle.contract.counter, Counter(0, 0), status, "", POLICY, "test", "white_box", verdicts
        )  # fmt: skip
        entries: dict[str, tuple[BlobRef, dict[str, object] | None]] = {
            bundle.path.audit_target: (bundle.manifest, custom.to_json())
        }
        metadata = next_delegated(current, AUDIT, entries=entries, now=now)
        return self.keys.signed(AUDIT, metadata), blobs


class Client:
    """HTTP to the application in this process, one request at a time."""

    def __init__(self, world: World, service: Service, *, address: str = "127.0.0.1") -> None:
        self.world = world
        self.service = service
        self._transport = httpx.ASGITransport(create_app(service), client=(address, 50000))

    def __call__(self, method: str, path: str, *, token: str | None = None, **arguments: Any) -> httpx.Response:
        headers = {**arguments.pop("headers", {})}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url=URL) as client:
                return await client.request(method, path, headers=headers, **arguments)

        return asyncio.run(send())

    def upload(self, blobs: dict[BlobRef, bytes], *, role: str = RELEASE) -> None:
        for ref, data in blobs.items():
            answer = self("PUT", f"/v1/blobs/sha256/{ref.digest.hex}", token=self.world.tokens[role], content=data)
            assert answer.status_code in {200, 201}, answer.text

    def upload_bundle(self, bundle: Bundle) -> None:
        self.upload({BlobRef.of(data): data for data in bundle.source.blobs.values()})

    def put_draft(self, role: str, data: bytes, *, query: str = "") -> httpx.Response:
        return self("PUT", f"/v1/drafts/{role}{query}", token=self.world.tokens[role], content=data)

    def publish(self, role: str, **fields: Any) -> httpx.Response:
        return self("POST", "/v1/publish", token=self.world.tokens[role], json={"role": role, **fields})

    def release(self, bundle: Bundle, **changes: Any) -> httpx.Response:
        """Everything that it takes to publish a bundle's release entry; returns the answer of the last step."""
        self.upload_bundle(bundle)
        return self._publish_draft(RELEASE, self.world.release_draft, bundle, changes)

    def audit(self, bundle: Bundle, **changes: Any) -> httpx.Response:
        """Likewise for its audit entry."""
        return self._publish_draft(AUDIT, self.world.audit_draft, bundle, changes)

    def current(self, role: str) -> Metadata[Targets] | None:
        answer = self("GET", f"/v1/roles/{role}")
        return Metadata[Targets].from_bytes(answer.content) if answer.status_code == 200 else None

    def _publish_draft(
        self, role: str, make: Callable[..., tuple[bytes, dict[BlobRef, bytes]]], bundle: Bundle, changes: dict[str, Any]
    ) -> httpx.Response:
        data, blobs = make(bundle, current=self.current(role), **changes)
        self.upload(blobs, role=role)
        answer = self.put_draft(role, data)
        return answer if answer.is_error else self.publish(role)


class FakeDevice:
    """A device's key and what it signs with it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.signer = CryptoSigner(Ed25519PrivateKey.generate())
        self.device_id = fingerprint(self.signer.public_key).hex
        self.token = ""
        self.counter = 0

    def enrolment(self, **changes: Any) -> bytes:
        payload = {
            "schema": 1,
            "audience": URL,
            "public_key": key_to_json(self.signer.public_key),
            "issued": format_time(self.clock()),
            "models": [f"{LINE}/{MODEL}"],
            "facts": {"arch": "x86_64", "cpu_features": ["avx2"], "ram_bytes": 1 << 30, "runtime": "none", "client": "test"},
        } | changes
        return self.sign(payload, enrolment.PAYLOAD_TYPE)

    def report(self, *, counter: int | None = None, **changes: Any) -> bytes:
        self.counter = self.counter + 1 if counter is None else counter
        payload = {
            "schema": 1,
            "audience": URL,
            "device_id": self.device_id,
            "counter": self.counter,
            "generation": 1,
            "created": format_time(self.clock()),
            "model": f"{LINE}/{MODEL}",
            "state": "idle",
            "event": "installed",
            "code": None,
            "detail": None,
            "active": {"version": "1.0.0", "manifest": str(Digest.of(b"manifest"))},
            "target": None,
            "floor": [0, 1],
            "marks": {"root": 1, "timestamp": 5},
        } | changes
        return self.sign(payload, reports.PAYLOAD_TYPE)

    def sign(self, payload: dict[str, Any], payload_type: str) -> bytes:
        return sign_envelope(canonical_json(payload), payload_type=payload_type, signers=[self.signer])

    def enroll(self, client: Client, **changes: Any) -> httpx.Response:
        answer = client("POST", "/v1/enroll", content=self.enrolment(**changes))
        self.token = json.loads(answer.content).get("token", self.token)
        return answer


def code_of(answer: httpx.Response) -> str:
    """The problem code of a refusal, having checked that it is a problem document."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document["status"] == answer.status_code
    return str(document["code"])
