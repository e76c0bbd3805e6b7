"""``sealift device import``: a file that a person brought takes the whole main path of a poll.

Nothing is trusted for coming by hand: the same refresh and memory, agreement of both roles, policy, signed rollout, bytes read to
their signed size and hashed, walker, self-test, and activation in one transaction (``poll.py``). Three things differ
(``offline_source.py``): the channel names the candidate, the owner's ``offline_grace_days`` may stretch snapshot and timestamp, and
no network is touched; what there is to report waits in the outbox. A device that never enrolled may import.

    with open_import(device, path) as found:
        results = [found.run(model) for model in found.models]

The file is read through before anything of the device is opened: one that breaks a rule of its format changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.metadata import Targets

from device_client.bundle.digest import Digest
from device_client.bundle.offline import OfflineFile, open_offline
from device_client.bundle.path import BundlePath, ModelPath
from device_client.errors import FormatError, UsageError, VerificationError
from device_client.install.folder import Device
from device_client.install.offline_source import FileBlobs, FileFetcher, FileSource
from device_client.install.poll import PollResult, poll
from device_client.install.selftest import SelfTestReport, run_selftest
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.channel import parse_channel
from device_client.trust.rules import parse_role
from device_client.trust.times import utc_now
from device_client.trust.trusted_time import BootTime, boot_time

_CHANNEL = re.compile(r"release/([^/]+/[^/]+)/channel\.json\Z")


class Import:
    """An open file and the device that it was brought to. Made by ``open_import``.

    Attributes:
        models: those of the device's models that are in the file, in the device's order; at least one.
        missing: the device's other models, which nothing is done about.
    """

    def __init__(self, device: Device, offline: OfflineFile, *, where: str, limits: Limits) -> None:
        self.offline = offline
        self._device = device
        self._where = where
        self._limits = limits
        held = models_in(offline, limits=limits)
        followed = device.config.models
        self.models = tuple(model for model in followed if model in held)
        self.missing = tuple(model for model in followed if model not in self.models)
        if not self.models:
            raise UsageError(
                "the file holds nothing for this device",
                code="import_models",
                where=where,
                expected=" or ".join(map(str, followed))[:300],
                actual=", ".join(sorted(map(str, held)))[:300] or "no model",
                hint="export the models that this device follows; they are in its device.toml",
            )

    def run(
        self,
        model: ModelPath,
        *,
        clock: Callable[[], datetime] = utc_now,
        uptime: Callable[[], BootTime] = boot_time,
        selftest: Callable[..., SelfTestReport] = run_selftest,
    ) -> PollResult:
        """Imports one model; what ``poll`` says of arguments, result and refusals holds."""
        return poll(
            self._device,
            model,
            clock=clock,
            uptime=uptime,
            http=FileBlobs(self.offline, where=self._where),
            fetcher=FileFetcher(self.offline),
            source=FileSource(timedelta(days=self._device.policy.offline_grace_days)),
            selftest=selftest,
            limits=self._limits,
        )


@contextmanager
def open_import(device: Device, path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Import]:
    """Reads the whole file once and says which of the device's models are in it.

    Raises:
        UsageError: no such file (``file_missing``), or it holds none of the device's models (``import_models``).
        FormatError, LimitError, IntegrityError: the file is not one that ``docs/bundle-format.md`` describes.
        StateError: the disk refused (``read_failed``).
    """
    with open_offline(path, limits=limits) as offline:
        yield Import(device, offline, where=str(path), limits=limits)


def models_in(offline: OfflineFile, *, limits: Limits = DEFAULT_LIMITS) -> frozenset[ModelPath]:
    """The models whose channel document and newest manifest are in the file.

    Unverified, and only good for telling people what a file is about: leaving a model out takes nothing from a device that not
    bringing the file would not. The channel alone would not do: those of two models may be the same bytes.

    Raises:
        FormatError, LimitError: a release role that is no metadata.
    """
    listed = _release_entries(offline, limits=limits)
    blobs, found = offline.blob_digests(), set()
    for target in listed:
        model = _model_of(target)
        if model is None or not (held := listed[target] & blobs):
            continue
        wanted = [listed.get(newest, set()) for digest in held if (newest := _newest(offline, digest, model, limits=limits))]
        if not wanted or any(not manifests or manifests & blobs for manifests in wanted):  # else the poll says what is wrong
            found.add(model)
    return frozenset(found)


def _release_entries(offline: OfflineFile, *, limits: Limits) -> dict[str, set[Digest]]:
    """Digests by target path, of every release role and bin in the file."""
    listed: dict[str, set[Digest]] = {}
    for name, data in offline.metadata.items():
        signed = parse_role(data, where=str(name), limits=limits).signed if name.role.startswith("release-") else None
        for target, entry in signed.targets.items() if isinstance(signed, Targets) else ():
            digest = _digest(entry.hashes.get("sha256"))
            listed.setdefault(target, set()).update(() if digest is None else (digest,))
    return listed


def _model_of(target: str) -> ModelPath | None:
    """The model that a channel's target path belongs to."""
    match = _CHANNEL.match(target)
    try:
        return None if match is None else ModelPath.parse(match[1])
    except FormatError:
        return None


def _newest(offline: OfflineFile, channel: Digest, model: ModelPath, *, limits: Limits) -> str | None:
    """Target path of the manifest that a channel document names; None if it is not one, which the poll says better."""
    try:
        if offline.blob_size(channel) > limits.max_channel_bytes:
            return None
        latest = parse_channel(offline.read(channel), limits=limits).latest
        return BundlePath(model.line, model.model, latest).release_target
    except VerificationError:
        return None


def _digest(text: object) -> Digest | None:
    try:
        return Digest(str(text))
    except FormatError:
        return None
