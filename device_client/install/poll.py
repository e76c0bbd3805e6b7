"""One poll: is there something new, may this device run it, does it run right? Then, and only then, it becomes active.

``_Cycle.run`` is the numbered main path, to be read from top to bottom. A refusal anywhere leaves the active model, its
blobs and everything remembered as they were, is written to the journal and reported; the next poll starts afresh.

    result = poll(open_device(path), ModelPath("digits", "ocr"))
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tuf.ngclient import FetcherInterface

from device_client.bundle.contract import Contract, Variant, parse_contract
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.fields import Fields
from device_client.bundle.manifest import Manifest, parse_manifest
from device_client.bundle.path import BundlePath, ModelPath, check_name
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.errors import FormatError, LimitError, PolicyError, SealiftError, StateError, VerificationError
from device_client.inference.model import check_against_contract
from device_client.inference.walker import check_model
from device_client.install.download import download_missing
from device_client.install.facts import read_facts
from device_client.install.folder import Device
from device_client.install.http import HttpClient
from device_client.install.ledger import Ledger
from device_client.install.lock import exclusive
from device_client.install.machine import Event
from device_client.install.report import send_reports
from device_client.install.selftest import SelfTestLimits, SelfTestReport, run_selftest
from device_client.install.state import Deployment, DeviceState, open_state
from device_client.install.store import BlobStore
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.policy.memory import check_memory, check_variant_memory
from device_client.policy.policy import check_audit, check_verdict
from device_client.policy.rollout import check_rollout
from device_client.policy.selection import DeviceFacts, providers_for, select_variant
from device_client.trust.agreement import AgreedRelease
from device_client.trust.bootstrap import choose_bootstrap
from device_client.trust.channel import parse_channel
from device_client.trust.client import MetadataClient, TrustedMetadata
from device_client.trust.refs import BlobRef
from device_client.trust.times import utc_now

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PollResult:
    """What a poll did. ``result`` is ``installed``, ``current`` or ``none`` (the server offers nothing)."""

    result: str
    model: ModelPath
    deployment: Deployment | None = None
    bytes_downloaded: int = 0
    selftest: SelfTestReport | None = None
    reports_waiting: int = 0

    def to_json(self) -> dict[str, object]:
        """The flat form for ``--json``."""
        found = self.deployment
        return {
            "ok": True,
            "result": self.result,
            "model": str(self.model),
            "version": found.version if found else None,
            "counter": str(found.counter) if found else None,
            "variant": found.variant if found else None,
            "manifest": str(found.manifest) if found else None,
            "bytes_downloaded": self.bytes_downloaded,
            "selftest_s": self.selftest.seconds if self.selftest else None,
            "reports_waiting": self.reports_waiting,
        }


def poll(
    device: Device,
    model: ModelPath,
    *,
    clock: Callable[[], datetime] = utc_now,
    http: HttpClient | None = None,
    fetcher: FetcherInterface | None = None,
    selftest: Callable[..., SelfTestReport] = run_selftest,
    limits: Limits = DEFAULT_LIMITS,
) -> PollResult:
    """Asks for, checks and installs the newest release of ``model``.

    Args:
        device: an opened, enrolled device.
        model: one of its models.
        clock: trusted time, aware UTC.
        http: the way to the server's blobs and API.
        fetcher: the way to its metadata.
        selftest: runs the golden probes in a child process.
        limits: bounds of every read.

    Raises:
        VerificationError: the release was refused; the code says why. Recorded, and reported to the server.
        TransportError: the server could not be reached or does not serve what it should.
        StateError: this machine cannot do it now (locked, disk full, damaged state, not enrolled).
    """
    client = http or HttpClient(device.config.server)
    with exclusive(device.folder.lock), open_state(device.folder.state) as state:
        cycle = _Cycle(device, state, model, clock=clock, http=client, fetcher=fetcher, selftest=selftest, limits=limits)
        try:
            result = cycle.run()
        except SealiftError as refusal:
            _record(cycle, refusal)
            raise
        except Exception as error:  # a fault of this program: recorded like a refusal, with its trace in the log
            logger.exception("unexpected failure in a poll")
            failure = StateError(
                "unexpected failure", code="internal", actual=type(error).__name__, hint="report this with the log"
            )
            _record(cycle, failure)
            raise failure from error
        waiting = send_reports(state, device, client)
    return PollResult(result.result, model, result.deployment, result.bytes_downloaded, result.selftest, reports_waiting=waiting)


def _record(cycle: _Cycle, refusal: SealiftError) -> None:
    with contextlib.suppress(StateError):  # a database that cannot take the note must not hide the reason
        cycle.record(refusal)


class _Cycle:
    """One pass through ``machine.TRANSITIONS`` for one model, under the lock."""

    def __init__(
        self,
        device: Device,
        state: DeviceState,
        model: ModelPath,
        *,
        clock: Callable[[], datetime],
        http: HttpClient,
        fetcher: FetcherInterface | None,
        selftest: Callable[..., SelfTestReport],
        limits: Limits,
    ) -> None:
        self._device = device
        self._state = state
        self._model = model
        self._clock = clock
        self._http = http
        self._fetcher = fetcher
        self._selftest = selftest
        self._limits = limits
        self._store = BlobStore(device.folder.blobs, limits=limits)
        self._ledger = Ledger(device, state, model, clock=clock)
        self._received = 0

    def run(self) -> PollResult:
        """The main path."""
        # 1. Nobody else is at work here (the lock is held); what an interrupted poll left is cleared.
        self._start()
        # 2. Fresh metadata, at or above everything remembered.
        trusted = self._refresh()
        # 3. The server names a candidate: a hint, nothing more.
        version = self._ask_next()
        if version is None:
            self._ledger.go(Event.NOTHING_NEW)
            return PollResult("none", self._model, self._state.active(self._model))
        # 4. Both roles name the same bytes for it.
        agreed = self._agree(trusted, BundlePath(self._model.line, self._model.model, version))
        # 5. Neither memory, channel, local policy nor the signed rollout speaks against it.
        self._read_channel(trusted, agreed)
        self._check_remembered(agreed)
        if self._is_current(agreed):
            return self._stay_current(agreed)
        self._ledger.go(Event.OFFER)
        self._check_offer(agreed)
        facts = read_facts()
        self._ledger.go(Event.ACCEPTED)
        # 6. Only the blobs that are missing, each to exactly its signed size.
        contract, variant = self._download(agreed, facts)
        # 7. The bundle is what its digest, path and counter say, by the same code that admitted it to the server.
        self._ledger.go(Event.DOWNLOADED)
        bundle = self._verify(agreed, variant)
        # 8. The model file holds nothing but a model, and the one that the contract describes.
        model = self._walk(bundle, variant)
        self._ledger.go(Event.VERIFIED)
        # 9. Everything the self-test needs lies on this disk, synced.
        golden = self._stage(bundle)
        self._ledger.go(Event.STAGED)
        # 10. It computes the golden outputs here, in the real runtime, in a child with limits.
        report = self._test(model, golden, contract, variant, facts)
        self._ledger.go(Event.PASSED)
        # 11. It becomes active: one transaction, with its evidence, counter, floor and report.
        deployment = self._activate(agreed, variant, self._evidence(trusted, agreed))
        return PollResult("installed", self._model, deployment, self._received, report)

    def record(self, refusal: SealiftError) -> None:
        """Writes the refusal down and tells the server."""
        self._ledger.refuse(refusal)
        send_reports(self._state, self._device, self._http)

    # 1 to 5: what is offered, and may it be taken?

    def _start(self) -> None:
        self._store.sweep()
        self._ledger.begin()
        token, _ = self._state.enrolment()
        if token is None:
            raise StateError("the device is not enrolled", code="not_enrolled", hint="run `sealift device enroll`")

    def _refresh(self) -> TrustedMetadata:
        folder = self._device.folder.metadata
        remembered = self._state.roots()
        newest = remembered[max(remembered)] if remembered else None
        client = MetadataClient(
            metadata_dir=folder,
            base_url=f"{self._device.config.server}/tuf/",
            bootstrap=choose_bootstrap(self._device.root, newest),
            limits=self._limits,
            clock=self._clock,
            fetcher=self._fetcher,
        )
        try:
            trusted = client.refresh(self._state.marks())
        except OSError as e:
            # The cache is disposable, what must be remembered is in the database: begin again from the newest root.
            logger.warning("metadata cache set aside: %s", e)
            shutil.rmtree(folder, ignore_errors=True)
            trusted = client.refresh(self._state.marks())
        with self._state.transaction():
            self._state.remember_marks(trusted.marks)
            self._state.remember_roots(trusted.roots)
        self._notice_withdrawal(trusted)
        return trusted

    def _notice_withdrawal(self, trusted: TrustedMetadata) -> None:
        """Remembers and reports that the running bundle was withdrawn, whatever the server offers instead."""
        active = self._state.active(self._model)
        if active is None:
            return
        try:
            agreed = trusted.agree(BundlePath(self._model.line, self._model.model, active.version))
        except VerificationError:
            return  # an absent or broken entry changes nothing for the running model (DESIGN 4)
        if agreed.manifest.digest == active.manifest and agreed.audit.status == "withdrawn":
            self._remember_withdrawal(agreed)

    def _remember_withdrawal(self, agreed: AgreedRelease) -> None:
        digest, seq, now = agreed.manifest.digest, agreed.audit.seq, self._clock()
        if self._state.memory(self._model).withdrawn.get(digest, 0) >= seq:
            return
        with self._state.transaction():
            self._state.remember_withdrawal(self._model, digest, agreed.audit.variants, seq)
            self._ledger.note("alarm", now, code="withdrawn", detail=agreed.audit.reason, target=(agreed.path.version, digest))

    def _ask_next(self) -> str | None:
        token, _ = self._state.enrolment()
        answer = self._http.request("GET", f"/v1/devices/me/next?model={self._model}", token=token)
        if answer.status == 204:
            return None
        fields = Fields(answer.json("next"), where="next")
        if fields.text("model") != str(self._model):
            raise FormatError("the server answers for another model", code="next_answer", actual=fields.text("model")[:150])
        self._ledger.version = check_name(fields.raw("version"), what="version", where="next.version")
        return self._ledger.version

    def _agree(self, trusted: TrustedMetadata, path: BundlePath) -> AgreedRelease:
        try:
            agreed = trusted.agree(path)
        finally:
            with self._state.transaction():
                self._state.remember_marks(trusted.marks)  # also of a refused release: its roles were verified
        self._ledger.manifest = agreed.manifest.digest
        return agreed

    def _read_channel(self, trusted: TrustedMetadata, agreed: AgreedRelease) -> None:
        """Raises the floor to the channel's, once both roles agree on the release that the channel calls the latest."""
        ref = trusted.channel_ref(self._model)
        if ref is None:
            return
        if ref.length > self._limits.max_channel_bytes:
            raise LimitError("channel document too large", code="too_large", where=str(self._model), actual=ref.length)
        self._received += download_missing([ref], store=self._store, http=self._http)
        channel = parse_channel(self._store.read(ref.digest), limits=self._limits)
        # The release role alone writes the channel: its floor counts only below a counter that the audit role signed too.
        if (
            agreed.path.version == channel.latest
            and channel.floor <= agreed.release.counter
            and agreed.release.rollout.max_percent == 100
        ):
            with self._state.transaction():
                self._state.raise_floor(self._model, channel.floor)

    def _check_remembered(self, agreed: AgreedRelease) -> None:
        if agreed.audit.status == "withdrawn":
            self._remember_withdrawal(agreed)
            check_audit(agreed.audit, self._device.policy)  # refuses, with the audit team's own reason
        check_memory(agreed, self._state.memory(self._model))

    def _is_current(self, agreed: AgreedRelease) -> bool:
        active = self._state.active(self._model)
        return active is not None and active.manifest == agreed.manifest.digest

    def _stay_current(self, agreed: AgreedRelease) -> PollResult:
        """Nothing new: makes good what this disk has lost or damaged."""
        active = self._state.active(self._model)
        manifest, contract = self._fetch_contract(agreed)
        if active is not None:
            layer = manifest.layer(contract.variant(active.variant).layer)
            self._received += self._fetch([layer])
        with self._state.transaction():
            self._state.remember_seq(self._model, agreed.manifest.digest, agreed.audit.seq)
        self._ledger.go(Event.NOTHING_NEW)
        return PollResult("current", self._model, active, self._received)

    def _check_offer(self, agreed: AgreedRelease) -> None:
        now = self._clock()
        cause = self._state.known_bad(self._model, agreed.manifest.digest, now=now)
        if cause is not None:
            raise PolicyError(
                "this bundle failed here before",
                code="known_bad",
                where=str(agreed.path),
                actual=cause,
                hint="the running model stays; release a corrected version with a higher counter",
            )
        check_audit(agreed.audit, self._device.policy)
        check_rollout(agreed.release.rollout, device=self._device.identity.fingerprint, manifest=agreed.manifest.digest, now=now)

    # 6 to 10: get it, check it, try it.

    def _download(self, agreed: AgreedRelease, facts: DeviceFacts) -> tuple[Contract, Variant]:
        manifest, contract = self._fetch_contract(agreed)
        variant = select_variant(contract, agreed.audit, policy=self._device.policy, facts=facts, now=self._clock())
        check_variant_memory(variant.model.digest, agreed, self._state.memory(self._model))
        self._received += self._fetch([manifest.config, manifest.golden, manifest.layer(variant.layer)])
        return contract, variant

    def _fetch_contract(self, agreed: AgreedRelease) -> tuple[Manifest, Contract]:
        self._received += download_missing([agreed.manifest], store=self._store, http=self._http)
        manifest = parse_manifest(self._store.read(agreed.manifest.digest), limits=self._limits)
        self._received += self._fetch([manifest.contract])
        return manifest, parse_contract(self._store.read(manifest.contract.digest), limits=self._limits)

    def _fetch(self, blobs: Iterable[Descriptor]) -> int:
        return download_missing([BlobRef(blob.digest, blob.size) for blob in blobs], store=self._store, http=self._http)

    def _verify(self, agreed: AgreedRelease, variant: Variant) -> VerifiedBundle:
        return verify_bundle(
            self._store,
            agreed.manifest.digest,
            manifest_size=agreed.manifest.length,
            path=agreed.path,
            counter=agreed.release.counter,
            variants=(variant.id,),
            limits=self._limits,
        )

    def _walk(self, bundle: VerifiedBundle, variant: Variant) -> bytes:
        data = self._store.read(variant.model.digest)
        model = check_model(data, features=bundle.contract.features, where=f"variant {variant.id}", limits=self._limits)
        check_against_contract(model, bundle.contract, variant)
        return model.data

    def _stage(self, bundle: VerifiedBundle) -> bytes:
        # The child parses the probes: the agent needs neither numpy nor trust in a parser for that.
        return self._store.read(bundle.contract.golden.layer)

    def _test(self, model: bytes, golden: bytes, contract: Contract, variant: Variant, facts: DeviceFacts) -> SelfTestReport:
        return self._selftest(
            model,
            golden,
            variant=variant.id,
            probes=contract.golden.count,
            tolerance=contract.golden.tolerance(variant.id),
            features=contract.features,
            providers=providers_for(variant, facts.providers),
            cwd=self._device.folder.empty,
            limits=SelfTestLimits.for_model(
                model_bytes=len(model), ram_bytes=variant.requires.ram_bytes, device_ram_bytes=facts.ram_bytes
            ),
        )

    # 11: the one moment in which anything changes.

    def _evidence(self, trusted: TrustedMetadata, agreed: AgreedRelease) -> dict[str, bytes]:
        """What proves the agreement to somebody who has only the root that was given at `init`."""
        roots = {f"{version}.root.json": data for version, data in self._state.roots().items()}
        return {**roots, **trusted.evidence(agreed.path)}

    def _activate(self, agreed: AgreedRelease, variant: Variant, evidence: Mapping[str, bytes]) -> Deployment:
        """Checks once more what may have changed since (clock, memory), then stores all of it or nothing."""
        self._ledger.go(Event.ACTIVATING)
        now = self._clock()
        deployment = Deployment(
            model=self._model,
            version=agreed.path.version,
            manifest=agreed.manifest.digest,
            variant=variant.id,
            variant_digest=variant.model.digest,
            counter=agreed.release.counter,
            seq=agreed.audit.seq,
            installed=now,
        )
        with self._state.transaction():
            memory = self._state.memory(self._model)
            check_memory(agreed, memory)
            check_variant_memory(variant.model.digest, agreed, memory)
            check_audit(agreed.audit, self._device.policy)
            check_verdict(agreed.audit.variants[variant.model.digest], self._device.policy, now=now, where=f"variant {variant.id}")
            self._state.activate(deployment, evidence, floor=agreed.release.floor)
            self._ledger.finish(Event.ACTIVATED, Event.COMMITTED, now=now)
        return deployment
