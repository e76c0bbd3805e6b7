"""What the steps of one poll share: the device and its books, the ways to the server, and what has been found out so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from tuf.ngclient import FetcherInterface

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.install.decision import Trace
from device_client.install.download import Wanted, download_missing
from device_client.install.folder import Device
from device_client.install.http import HttpClient
from device_client.install.ledger import Ledger
from device_client.install.rollback import Holdings
from device_client.install.selftest import SelfTestReport
from device_client.install.state import DeviceState
from device_client.install.store import open_store
from device_client.install.transfer import Transfer
from device_client.limits import Limits
from device_client.policy.memory import Memory, with_running
from device_client.trust.agreement import AgreedRelease
from device_client.trust.channel import Channel
from device_client.trust.marks import Marks
from device_client.trust.refs import BlobRef
from device_client.trust.trusted_metadata import TrustedMetadata
from device_client.trust.trusted_time import BootTime, TrustedTime


@dataclass
class Found:
    """What a poll has found out; a field is empty until its step has run.

    Attributes:
        trusted: the metadata, once it was refreshed.
        stretched: which roles count although they have expired, by the owner's ``offline_grace_days``.
        stored: the marks as they were stored last.
        running: what both roles agree on for the running bundle.
        running_code: why they do not.
        reasons: of withdrawals seen in this poll, by bundle.
        channel: the channel document.
        channel_blobs: where it is stored.
        newest: what both roles agree on under the channel's ``latest``.
        unaudited: the channel's ``latest``, while only the release role lists it.
        channel_code: why the channel counts for nothing.
        offered: the version that the server named.
        poll_s: when it wants to be asked again, in seconds.
        activated: whether a bundle was activated.
    """

    trusted: TrustedMetadata | None = None
    stretched: str = ""
    stored: Marks | None = None
    running: AgreedRelease | None = None
    running_code: str | None = None
    reasons: dict[Digest, str] = field(default_factory=dict)
    channel: Channel | None = None
    channel_blobs: tuple[Digest, ...] = ()
    newest: AgreedRelease | None = None
    unaudited: str | None = None
    channel_code: str | None = None
    offered: str | None = None
    poll_s: int | None = None
    activated: bool = False


class Source(Protocol):
    """Where a poll's updates come from: the server (``offer.ServerSource``), or a file that a person brought."""

    @property
    def is_online(self) -> bool:
        """Whether there is a server that knows this device and takes its reports."""

    @property
    def grace(self) -> timedelta:
        """How long past its expiry a snapshot or timestamp still counts."""

    def next_version(self, cycle: Cycle) -> str | None:
        """The candidate, asked for after the channel was read; None if there is none."""


class Cycle:
    """One poll of one model, under the lock.

    Args:
        device: whose poll it is.
        state: its open state.
        model: what is asked for.
        clock: the wall clock.
        uptime: the boot clock.
        time: trusted time as far as it is remembered; replaced by what the refresh learns.
        http: the way to blobs and API.
        fetcher: the way to metadata.
        source: what says which version is next.
        selftest: runs golden probes in a child.
        limits: bounds of every read.
    """

    def __init__(
        self,
        device: Device,
        state: DeviceState,
        model: ModelPath,
        *,
        clock: Callable[[], datetime],
        uptime: Callable[[], BootTime],
        time: TrustedTime,
        http: HttpClient,
        fetcher: FetcherInterface | None,
        source: Source,
        selftest: Callable[..., SelfTestReport],
        limits: Limits,
    ) -> None:
        self.device = device
        self.state = state
        self.model = model
        self.clock = clock
        self.uptime = uptime
        self.time = time
        self.http = http
        self.fetcher = fetcher
        self.source = source
        self.selftest = selftest
        self.limits = limits
        self.store = open_store(device.folder, limits=limits)
        self.transfer = Transfer(device.config.download)
        self.ledger = Ledger(device, state, model, clock=self.now)
        self.holdings = Holdings(device, state, self.store, model, limits)
        self.found = Found()
        self.trace = Trace()
        self.received = 0

    def now(self) -> datetime:
        """Trusted time, as well as it is known at this point."""
        return self.time.now()

    def memory(self) -> Memory:
        """What is remembered, with the bundle that runs but is not committed yet counted in."""
        memory, active = self.state.memory(self.model), self.state.active(self.model)
        if active is None or self.state.probation(self.model) is None:
            return memory
        return with_running(memory, counter=active.counter, manifest=active.manifest, version=active.version)

    def fetch(self, blobs: Iterable[Wanted | BlobRef]) -> None:
        """Makes blobs present in the store; counts what was received."""
        self.received += download_missing(blobs, store=self.store, http=self.http, transfer=self.transfer)
