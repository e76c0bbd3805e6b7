"""Step 2 of a poll: fresh metadata, at or above everything remembered; and what it says about bundles that are held here.

What was verified is remembered at once, also when the refresh breaks off half-way or ends in a refusal.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime

from tuf.api.metadata import Root

from device_client.bundle.path import BundlePath
from device_client.errors import StateError, TrustError, VerificationError
from device_client.install.cycle import Cycle
from device_client.install.folder import Device
from device_client.install.state import Deployment, DeviceState
from device_client.trust.agreement import AgreedRelease
from device_client.trust.bootstrap import choose_bootstrap
from device_client.trust.client import MetadataClient, Remember
from device_client.trust.marks import Marks, keyset_digest
from device_client.trust.rules import keys_of_top_level, parse_role
from device_client.trust.trusted_metadata import TOP_LEVEL, TrustedMetadata
from device_client.trust.trusted_time import BootTime, TrustedTime

logger = logging.getLogger(__name__)

MAX_HELD = 32  # bundles whose audit entries are looked up at each poll


def remembered_time(
    device: Device, state: DeviceState, *, clock: Callable[[], datetime], uptime: Callable[[], BootTime]
) -> TrustedTime:
    """Trusted time before any refresh: the clock, and the floors of keys that the newest verified root names."""
    roots = state.roots()
    root = parse_role(roots[max(roots)] if roots else device.root, where="root").signed
    if not isinstance(root, Root):
        raise TrustError("not a root", code="metadata_syntax", where="root")
    present = {
        role: keyset_digest(keys_of_top_level(root, role), threshold=root.get_delegated_role(role).threshold) for role in TOP_LEVEL
    }
    floors = [floor for floor in state.marks().times if present.get(floor.role) == floor.keyset]
    return TrustedTime(floors, clock=clock, uptime=uptime)


def refresh(cycle: Cycle) -> TrustedMetadata:
    """Refreshes; remembers marks, times and roots; knows the time from here on.

    Raises:
        TrustError, FormatError, LimitError, TransportError: what ``MetadataClient.refresh`` raises.
        StateError: the cache cannot be written, not even anew (``cache_unwritable``).
    """
    folder, roots = cycle.device.folder.metadata, cycle.state.roots()
    client = MetadataClient(
        metadata_dir=folder,
        base_url=f"{cycle.http.base_url}/tuf/",
        bootstrap=choose_bootstrap(cycle.device.root, roots[max(roots)] if roots else None),
        limits=cycle.limits,
        clock=cycle.clock,
        uptime=cycle.uptime,
        fetcher=cycle.fetcher,
        grace=cycle.source.grace,
    )

    def remember(marks: Marks, verified: Mapping[int, bytes]) -> None:
        with cycle.state.transaction():
            cycle.state.remember_roots(verified)
            cycle.state.remember_marks(marks, at=cycle.uptime())
        cycle.found.stored = marks

    try:
        trusted = client.refresh(cycle.state.marks(), remember)
    except OSError as e:
        # The cache is disposable, what must be remembered is in the database: begin again from the newest root.
        logger.warning("metadata cache set aside: %s", e)
        with contextlib.suppress(OSError):  # not all of them are ignored by `ignore_errors`; what is left is overwritten
            shutil.rmtree(folder, ignore_errors=True)
        trusted = _refresh_anew(client, cycle, remember)
    cycle.found.trusted, cycle.found.stretched = trusted, trusted.stretched
    _learn(cycle, trusted)
    return trusted


def _refresh_anew(client: MetadataClient, cycle: Cycle, remember: Remember) -> TrustedMetadata:
    try:
        return client.refresh(cycle.state.marks(), remember)
    except OSError as e:
        raise StateError(
            "the metadata cache cannot be written",
            code="cache_unwritable",
            where=str(cycle.device.folder.metadata),
            actual=e.strerror,
            hint="free some space; the cache may be deleted at any time",
        ) from e


def agree(cycle: Cycle, trusted: TrustedMetadata, path: BundlePath) -> AgreedRelease:
    """What both roles say about ``path``; their marks are remembered also when it is refused, since the roles were verified.

    Raises:
        TrustError, FormatError: what ``TrustedMetadata.agree`` raises.
    """
    try:
        return trusted.agree(path)
    finally:
        _learn(cycle, trusted)


def look_at_held(cycle: Cycle, trusted: TrustedMetadata) -> None:
    """Remembers what the audit role says now about bundles that ran here, whatever the server offers instead.

    All of them, not only the one that runs: their bytes may be those of another bundle, and one of them may be what this device
    would fall back to. An absent or broken entry changes nothing (DESIGN 4).
    """
    active = cycle.state.active(cycle.model)
    for held in cycle.state.held(cycle.model)[:MAX_HELD]:
        is_running = active is not None and held.manifest == active.manifest
        try:
            agreed = agree(cycle, trusted, BundlePath(cycle.model.line, cycle.model.model, held.version))
        except VerificationError as e:
            if is_running:
                cycle.found.running_code = e.code
            continue
        if agreed.manifest.digest != held.manifest:
            continue
        if agreed.audit.status == "withdrawn":
            remember_withdrawal(cycle, agreed, is_running=is_running)
        else:
            _remember_restoration(cycle, agreed, held)
        if is_running:
            cycle.found.running = agreed


def remember_withdrawal(cycle: Cycle, agreed: AgreedRelease, *, is_running: bool) -> None:
    """Remembers a withdrawal for ever. Of the running bundle it is told with what becomes of that (``standing.py``)."""
    digest, seq = agreed.manifest.digest, agreed.audit.seq
    cycle.found.reasons[digest] = agreed.audit.reason
    if cycle.state.memory(cycle.model).withdrawn.get(digest, 0) >= seq:
        return
    with cycle.state.transaction():
        cycle.state.remember_withdrawal(cycle.model, digest, agreed.audit.variants, seq)
        if not is_running:
            target = (agreed.path.version, digest)
            cycle.ledger.note("alarm", cycle.now(), code="withdrawn", detail=agreed.audit.reason, target=target)


def _remember_restoration(cycle: Cycle, agreed: AgreedRelease, held: Deployment) -> None:
    """An active entry with a higher ``seq`` takes a withdrawal back, so far as it is about the bytes that run here."""
    memory = cycle.state.memory(cycle.model)
    if held.variant_digest in agreed.audit.variants and agreed.audit.seq > memory.seqs.get(held.manifest, 0):
        with cycle.state.transaction():
            cycle.state.remember_seq(cycle.model, held.manifest, agreed.audit.seq)


def _learn(cycle: Cycle, trusted: TrustedMetadata) -> None:
    """Takes over what was verified since: marks, if there are new ones, and the time."""
    if trusted.marks != cycle.found.stored:
        with cycle.state.transaction():
            cycle.state.remember_marks(trusted.marks, at=cycle.uptime())
        cycle.found.stored = trusted.marks
    try:
        cycle.time = trusted.time_for(cycle.model)
    except TrustError:  # no delegation for the line: whoever asks for a release is refused for that
        cycle.time = trusted.time
