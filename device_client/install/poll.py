"""One poll: is there something new, may this device run it, does it run right? Then, and only then, it becomes active.

``_run`` is the numbered main path, to be read from top to bottom; each step has its file. A refusal anywhere leaves the active
model, its blobs and everything remembered as they were, is written to the journal and reported; the next poll starts afresh.
Whatever the outcome, the poll ends by asking whether what runs may go on running (``standing.py``).

    result = poll(open_device(path), ModelPath("digits", "ocr"))
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tuf.ngclient import FetcherInterface

from device_client.bundle.path import ModelPath
from device_client.errors import SealiftError, StateError, VerificationError
from device_client.install.activation import activate
from device_client.install.collection import collect
from device_client.install.conditions import check_ready
from device_client.install.cycle import Cycle, Source
from device_client.install.folder import Device
from device_client.install.http import HttpClient
from device_client.install.lock import exclusive
from device_client.install.machine import Event
from device_client.install.newest import read_newest
from device_client.install.offer import (
    ServerSource,
    agree_on_offer,
    check_offer,
    check_offered_memory,
    is_current,
    stay_current,
)
from device_client.install.probation import watch
from device_client.install.recovery import open_memory
from device_client.install.refresh import look_at_held, refresh, remembered_time
from device_client.install.report import send_reports
from device_client.install.selftest import SelfTestReport, run_selftest
from device_client.install.standing import settle
from device_client.install.state import Deployment
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.times import utc_now
from device_client.trust.trusted_metadata import TrustedMetadata
from device_client.trust.trusted_time import BootTime, boot_time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PollResult:
    """What a poll did.

    Attributes:
        result: ``installed``, ``current`` or ``none`` (the server offers nothing).
        model: what was asked for.
        deployment: what is active now.
        standing: what became of it: ``run``, ``fall_back`` (it is an earlier bundle now) or ``stop``.
        bytes_downloaded: of blobs.
        selftest: of a bundle that was installed.
        reports_waiting: for the server to take them.
        poll_s: when the server wants to be asked again, in seconds; None if it did not say.
    """

    result: str
    model: ModelPath
    deployment: Deployment | None = None
    standing: str = "run"
    bytes_downloaded: int = 0
    selftest: SelfTestReport | None = None
    reports_waiting: int = 0
    poll_s: int | None = None

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
            "standing": self.standing,
            "bytes_downloaded": self.bytes_downloaded,
            "selftest_s": self.selftest.seconds if self.selftest else None,
            "reports_waiting": self.reports_waiting,
            "poll_s": self.poll_s,
        }


def poll(
    device: Device,
    model: ModelPath,
    *,
    clock: Callable[[], datetime] = utc_now,
    uptime: Callable[[], BootTime] = boot_time,
    http: HttpClient | None = None,
    fetcher: FetcherInterface | None = None,
    source: Source | None = None,
    selftest: Callable[..., SelfTestReport] = run_selftest,
    limits: Limits = DEFAULT_LIMITS,
) -> PollResult:
    """Asks for, checks and installs the newest release of ``model``.

    Args:
        device: an opened, enrolled device.
        model: one of its models.
        clock: the wall clock, aware UTC.
        uptime: the boot clock.
        http: the way to the server's blobs and API.
        fetcher: the way to its metadata.
        source: what says which version is next; the server, unless given.
        selftest: runs the golden probes in a child process.
        limits: bounds of every read.

    Raises:
        VerificationError: the release was refused; the code says why. Recorded, and reported to the server.
        TransportError: the server could not be reached or does not serve what it should.
        StateError: this machine cannot do it now (locked, disk full, damaged state, not enrolled).
    """
    way = http or HttpClient(device.config.server, redirect_origins=device.config.download.redirect_origins)
    with exclusive(device.folder.lock), open_memory(device, model, now=clock(), at=uptime()) as state:
        cycle = Cycle(
            device,
            state,
            model,
            clock=clock,
            uptime=uptime,
            time=remembered_time(device, state, clock=clock, uptime=uptime),
            http=way,
            fetcher=fetcher,
            source=source or ServerSource(),
            selftest=selftest,
            limits=limits,
        )
        try:
            result, report = _run(cycle)
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
        standing = settle(cycle, None)
        _keep_decision(cycle, result=result, standing=standing.action.value)
        waiting = send_reports(state, device, way, now=cycle.now()) if cycle.source.is_online else len(state.outbox())
        return PollResult(
            result,
            model,
            state.active(model),
            standing.action.value,
            cycle.received,
            selftest=report,
            reports_waiting=waiting,
            poll_s=cycle.found.poll_s,
        )


def _run(cycle: Cycle) -> tuple[str, SelfTestReport | None]:
    """The main path; returns what was done, and the self-test of what was installed."""
    # 1. Nobody else is at work here (the lock is held); what an interrupted poll left is cleared; a bundle on probation is judged.
    _start(cycle)
    # 2. Fresh metadata, at or above everything remembered; from here on the time is what signed roles prove.
    trusted = refresh(cycle)
    cycle.trace.passed("metadata", "signed metadata is fresh and not older than remembered", measured=_versions(trusted))
    # 3. Withdrawals of what is held here are remembered, whatever the server offers.
    look_at_held(cycle, trusted)
    # 4. The channel says what is newest, and may raise the floor.
    read_newest(cycle, trusted)
    # 5. The server names a candidate, or the channel for a file brought by hand: a hint, nothing more.
    version = cycle.source.next_version(cycle)
    if version is None:
        cycle.trace.passed("offer", "the server offers nothing")
        cycle.ledger.go(Event.NOTHING_NEW)
        return "none", None
    # 6. Both roles name the same bytes for it; neither memory, policy, the signed rollout nor the owner's window speaks against it.
    cycle.trace.passed("offer", "the server names a version", measured=version)
    agreed = agree_on_offer(cycle, trusted, version)
    cycle.trace.passed(
        "agreement", "both roles name the same bytes", measured=f"{agreed.manifest.digest}, counter {agreed.release.counter}"
    )
    active = cycle.state.active(cycle.model)
    if active is not None and is_current(cycle, agreed):
        stay_current(cycle, agreed, active)
        cycle.trace.passed("current", "it is what runs here")
        cycle.ledger.go(Event.NOTHING_NEW)
        return "current", None
    check_offered_memory(cycle, agreed)
    cycle.trace.passed("memory", "nothing remembered speaks against it", measured=f"counter {agreed.release.counter}")
    cycle.ledger.go(Event.OFFER)
    check_offer(cycle, agreed)
    if cycle.source.is_online:  # who brings a file by hand chose the moment
        check_ready(cycle, agreed.manifest.digest)
    cycle.trace.passed("policy", "policy, rollout and maintenance window let this device take it now")
    # 7 to 11. Fetched, verified, walked, staged, and tried in a child with limits.
    from device_client.install.trial import try_release  # here: memory that a poll with nothing new does not need

    tried = try_release(cycle, agreed)
    cycle.trace.passed("variant", "the first variant that fits this machine and was audited", measured=tried.variant.id)
    cycle.trace.passed("selftest", "it computes its golden probes within its budget", measured=tried.report.measured_text())
    # 12. It becomes active: one transaction, with its evidence, counter, floor and report.
    activate(cycle, trusted, agreed, tried.variant)
    minutes = cycle.device.policy.probation.minutes
    cycle.trace.passed("activated", f"it runs; on probation for {minutes} minutes" if minutes else "it runs and is committed")
    # 13. What nothing here may need again goes.
    collect(cycle.device, cycle.state, cycle.store, keep=cycle.found.channel_blobs)
    return "installed", tried.report


def _versions(trusted: TrustedMetadata) -> str:
    return f"root {trusted.root.version}, targets {trusted.targets.version}"


def _start(cycle: Cycle) -> None:
    cycle.store.sweep()
    watch(cycle.holdings, cycle.ledger, now=cycle.now(), at=cycle.uptime())
    cycle.ledger.begin()
    token, _ = cycle.state.enrolment()
    if token is None and cycle.source.is_online:
        raise StateError("the device is not enrolled", code="not_enrolled", hint="run `sealift device enroll`")


def _keep_decision(cycle: Cycle, *, result: str, standing: str) -> None:
    active = cycle.state.active(cycle.model)
    running = None if active is None else f"{active.version} ({active.variant})"
    told = cycle.trace.to_bytes(cycle.model, result=result, now=cycle.now(), running=running, standing=standing)
    with cycle.state.transaction():
        cycle.state.set_decision(cycle.model, told)


def _record(cycle: Cycle, refusal: SealiftError) -> None:
    """Writes the refusal down, judges what runs, and tells the server; a database that cannot take it must not hide the reason."""
    with contextlib.suppress(StateError):
        cycle.ledger.refuse(refusal)
        cycle.trace.refused(refusal)
        try:
            standing = settle(cycle, refusal)
            _keep_decision(
                cycle, result="deferred" if refusal.code.startswith("deferred_") else "refused", standing=standing.action.value
            )
        except (VerificationError, StateError) as error:
            logger.warning("the standing of %s could not be judged: %s", cycle.model, error)
        if cycle.source.is_online:
            send_reports(cycle.state, cycle.device, cycle.http, now=cycle.now())
