"""One device and all that is around it, in memory: a signed repository, blobs, a server. The device's code is the real one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tuf.api.exceptions import DownloadError
from tuf.ngclient import FetcherInterface

from device_client.bundle import (
    Budget,
    Contract,
    Counter,
    Descriptor,
    Digest,
    Expected,
    Golden,
    Lineage,
    Manifest,
    ModelConfig,
    ModelPath,
    ModelRef,
    Requires,
    TensorSpec,
    Tolerance,
    Variant,
    media_types,
)
from device_client.errors import SealiftError
from device_client.inference.golden import GoldenProbes, encode_golden
from device_client.inference.model import open_model
from device_client.install.folder import Device, init_device, open_device
from device_client.install.http import Answer, HttpClient, LostConnectionError, RangeRefusedError, ServerRefusalError
from device_client.install.poll import PollResult, poll
from device_client.install.selftest import SelfTestReport, run_selftest
from device_client.install.state import DeviceState, open_state
from device_client.trust.channel import Channel
from device_client.trust.custom import AuditCustom, PolicyRef, ReleaseCustom, Rollout, VariantVerdict
from device_client.trust.dsse import verify_envelope
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time, parse_time
from device_client.trust.trusted_time import BootTime
from tests.simulator import AUDIT, LINE, MODEL, NOW, RELEASE, RepositorySimulator
from tests.unit.inference import models

THE_MODEL = ModelPath(LINE, MODEL)
X = np.arange(12, dtype=np.float32).reshape(4, 3)
ANY = Requires()
# Committed in the transaction that activates: most tests are about what comes before.
UNWATCHED = "[probation]\nminutes = 0\n"


@dataclass(frozen=True)
class Bundle:
    """A bundle as bytes."""

    contract: Contract
    manifest: bytes
    blobs: Mapping[Digest, bytes]

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)

    def model(self, variant: str = "int8") -> Digest:
        return self.contract.variant(variant).model.digest


def bundle(
    version: str,
    *,
    counter: int,
    scale: float = 2.0,
    golden_scale: float | None = None,
    data: bytes | None = None,
    requires: Requires = ANY,
    **changes: Any,
) -> Bundle:
    """A small good bundle: y = scale * x. ``golden_scale`` makes probes that the model does not reproduce."""
    model = data if data is not None else models.linear(scale=scale).SerializeToString()
    golden = encode_golden(GoldenProbes({"x": X}, {"int8": {"y": X * np.float32(golden_scale or scale)}}))
    digest = Digest.of(model)
    contract = Contract(
        line=LINE,
        model=MODEL,
        version=version,
        counter=Counter(0, counter),
        task="regression",
        inputs=(TensorSpec("x", "float32", ("batch", 3), "three numbers", (-1000.0, 1000.0)),),
        outputs=(TensorSpec("y", "float32", ("batch", 3), "scaled"),),
        preprocessing=(),
        variants=(
            Variant(
                "int8",
                "onnxruntime",
                "onnx",
                models.OPSET,
                "int8",
                digest,
                ModelRef(digest, len(model)),
                requires,
                Expected("accuracy", 0.9, (0.8, 1.0)),
            ),
        ),
        golden=Golden(Digest.of(golden), len(X), (("int8", Tolerance("exact", 0.0)),)),
        budget=Budget(0.01, 1 << 30, (), 10.0),
        lineage=Lineage(Digest.of(b"source"), Digest.of(b"recipe")),
    )
    contract = replace(contract, **changes)
    blobs: dict[Digest, bytes] = {}

    def layer(media_type: str, content: bytes, *annotations: tuple[str, str]) -> Descriptor:
        blobs[Digest.of(content)] = content
        return Descriptor(media_type, Digest.of(content), len(content), annotations)

    layers = (
        layer(media_types.CONTRACT, contract.to_bytes()),
        layer(media_types.WEIGHT, model, (media_types.ANNOTATION_VARIANT, "int8")),
        layer(media_types.GOLDEN, golden),
    )
    manifest = Manifest(layer(media_types.CONFIG, ModelConfig.of(contract, layers).to_bytes()), layers).to_bytes()
    blobs[Digest.of(manifest)] = manifest
    return Bundle(contract, manifest, blobs)


@dataclass
class FakeServer(HttpClient):
    """Blobs and the device API, without a network. ``offered`` is what `next` names."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    offered: str | None = None
    is_down: bool = False
    reports: list[bytes] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    last_counter: int = 0

    def __post_init__(self) -> None:
        super().__init__("http://127.0.0.1:9", retries=0, sleep=lambda _: None)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        if self.is_down:
            raise LostConnectionError("down", code="transport", where=path)
        if path == "/v1/devices/me/reports":
            return self._take(body or b"")
        assert path == f"/v1/devices/me/next?model={THE_MODEL}"
        assert token == "token"
        if self.offered is None:
            return Answer(204, {}, b"")
        return Answer(200, {}, json.dumps({"schema": 1, "model": str(THE_MODEL), "version": self.offered, "poll_s": 300}).encode())

    def download(self, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
        hex_ = path.rsplit("/", 1)[1]
        self.downloads.append(hex_)
        data = self.blobs.get(Digest(hex_))
        if self.is_down or data is None:
            raise ServerRefusalError(code="not_found", where=path, actual="status 404", status=404, problem={})
        write(data[: size + 1])
        return len(data)

    def resume(self, path: str, *, size: int, offset: int, etag: str, write: Callable[[bytes], None]) -> int:
        raise RangeRefusedError("no ranges here", code="range_refused", where=path)

    def _take(self, body: bytes) -> Answer:
        counter = payload_of(body)["counter"]
        if counter <= self.last_counter and body not in self.reports:
            problem = {"code": "report_counter", "last_counter": self.last_counter}
            raise ServerRefusalError(code="report_counter", where="reports", actual="status 409", status=409, problem=problem)
        self.last_counter = max(counter, self.last_counter)
        self.reports.append(body)
        return Answer(202, {}, b"{}")


def payload_of(envelope: bytes) -> dict[str, Any]:
    """What a report says, unverified."""
    import base64

    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return found


class Unreachable(FetcherInterface):
    """No network."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise DownloadError(url)


class World:
    """A device in ``folder``, enrolled at a fake server over a simulated repository."""

    def __init__(self, folder: Path) -> None:
        self.sim = RepositorySimulator()
        self.server = FakeServer()
        self.now = NOW + timedelta(minutes=5)
        self.device: Device = init_device(
            folder,
            root=self.sim.bootstrap,
            root_sha256=Digest.of(self.sim.bootstrap),
            server=self.server.base_url,
            models=(THE_MODEL,),
            policy=f"schema = 1\n{UNWATCHED}".encode(),
        )
        self.boot = BootTime("boot-1", 1000.0)
        self.enroll()

    def enroll(self) -> None:
        """As the server's answer to `device enroll` would be stored."""
        with self.state() as state, state.transaction():
            state.set_enrolment("token", "accepted")

    def state(self) -> DeviceState:
        return open_state(self.device.folder.state)

    def clock(self) -> datetime:
        return self.now

    def uptime(self) -> BootTime:
        return self.boot

    def poll(self, *, selftest: Callable[..., SelfTestReport] = run_selftest) -> PollResult:
        fetcher = Unreachable() if self.server.is_down else self.sim
        return poll(
            self.device, THE_MODEL, clock=self.clock, uptime=self.uptime, http=self.server, fetcher=fetcher, selftest=selftest
        )

    def set_policy(self, text: str) -> None:
        """Replaces policy.toml, as the device's owner would."""
        watched = "" if "[probation]" in text else UNWATCHED
        self.device.folder.policy.write_text(f"schema = 1\n{text}\n{watched}\n")
        self.device = open_device(self.device.folder.path)

    def pass_days(self, days: int = 1) -> None:
        """Time goes by, and the teams renew their roles."""
        self.now += timedelta(days=days)
        self.sim.now = self.now
        for signed in (self.sim.targets, self.sim.snapshot, self.sim.timestamp, *self.sim.delegated.values()):
            issued = parse_time(signed.unrecognized_fields["issued"], "simulator")
            signed.expires = self.now + (signed.expires - issued)
            signed.unrecognized_fields["issued"] = format_time(self.now)
        self.sim.publish("targets", *self.sim.delegated)

    def running(self) -> float:
        """What the installed model does to 1.0: its scale."""
        with open_model(self.device.folder, THE_MODEL) as model:
            return float(model.run({"x": X[:1] * 0 + np.float32(1)})["y"][0, 0])

    def device_journal(self) -> str:
        """When the newest line of the journal was written."""
        with self.state() as state:
            return format_time(state.journal(limit=1)[0].at)

    def events(self) -> list[tuple[str, str | None]]:
        """Event and code of each report, oldest first."""
        return [(report["event"], report["code"]) for report in self.reports()]

    def refusal(self, **kwargs: Any) -> SealiftError:
        """Polls and returns the error that it must end with."""
        try:
            result = self.poll(**kwargs)
        except SealiftError as error:
            return error
        raise AssertionError(f"not refused: {result}")

    def upload(self, *bundles: Bundle) -> None:
        for each in bundles:
            self.server.blobs.update(each.blobs)

    def release_entry(self, made: Bundle, *, counter: int | None = None, rollout: Rollout | None = None, floor: int = 0) -> None:
        number = Counter(0, counter) if counter is not None else made.contract.counter
        record = ReleaseCustom(number, Counter(0, floor), BlobRef.of(b"measurements"), rollout or Rollout())
        self.sim.add_release_entry(made.contract.version, counter=number, manifest=made.manifest, custom=record.to_json())

    def audit_entry(
        self,
        made: Bundle,
        *,
        variants: Mapping[Digest, VariantVerdict] | None = None,
        seq: int = 1,
        status: str = "active",
        counter: int | None = None,
        floor: int = 0,
        policy: str = "test",
    ) -> None:
        record = AuditCustom(
            seq=seq,
            counter=Counter(0, counter) if counter is not None else made.contract.counter,
            floor=Counter(0, floor),
            status=status,
            reason="" if status == "active" else "leaks",
            policy=PolicyRef(policy, 1, Digest.of(b"policy")),
            suite="test",
            threat_model="white_box",
            variants={made.model(): verdict()} if variants is None else variants,
        )
        self.sim.add_audit_entry(made.contract.version, counter=record.counter, manifest=made.manifest, custom=record.to_json())

    def channel(self, made: Bundle, *, floor: int = 0) -> None:
        data = Channel(made.contract.version, made.contract.counter, Counter(0, floor)).to_bytes()
        self.server.blobs[Digest.of(data)] = data
        from tuf.api.metadata import TargetFile

        target = THE_MODEL.channel_target
        self.sim.delegated_role(RELEASE).targets[target] = TargetFile(len(data), {"sha256": Digest.of(data).hex}, target)

    def publish(self, made: Bundle, **audit: Any) -> None:
        """Both roles list the bundle, its blobs are there, and the server offers it."""
        self.upload(made)
        self.release_entry(made)
        self.audit_entry(made, **audit)
        self.sim.publish(RELEASE, AUDIT)
        self.server.offered = made.contract.version

    def install(self, version: str = "1.0.0", *, counter: int = 1, **kwargs: Any) -> Bundle:
        made = bundle(version, counter=counter, **kwargs)
        self.publish(made)
        assert self.poll().result == "installed"
        return made

    def reports(self) -> list[dict[str, Any]]:
        """All that reached the server, oldest first, unverified."""
        return [payload_of(envelope) for envelope in self.server.reports]

    def last_report(self) -> dict[str, Any]:
        """The newest report that reached the server, after checking its signature."""
        payload = verify_envelope(
            self.server.reports[-1],
            payload_type="application/vnd.sealift.report.v1+json",
            keys=[self.device.identity.public_key],
            max_bytes=65536,
            where="report",
        ).payload
        found: dict[str, Any] = json.loads(payload)
        return found


def verdict(name: str = "PASSED", *, tier: str = "quick", days: float = 20) -> VariantVerdict:
    return VariantVerdict(name, tier, NOW + timedelta(days=days), BlobRef.of(b"attestation"))
