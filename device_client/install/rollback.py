"""Going back: to the newest bundle that was observed good here and may still run, else to the factory bundle, else to nothing.

Used by a failed probation, a withdrawal, a damaged disk found at boot, and by hand. Needs no network: evidence says what was
signed, memory what was withdrawn since. What both roles say now, where a poll knows it, is asked as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath, ModelPath
from device_client.errors import StateError, VerificationError
from device_client.install.folder import Device
from device_client.install.installed import verify_installed, verify_whole
from device_client.install.ledger import Ledger
from device_client.install.state import DeviceState
from device_client.install.state_deployments import Deployment
from device_client.install.store import BlobStore
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.policy.rollback import HeldBundle, choose_fallback
from device_client.policy.standing import Alarm
from device_client.trust.agreement import AgreedRelease

Listed = Callable[[BundlePath], AgreedRelease | None]


@dataclass(frozen=True)
class Target:
    """A held bundle that may run instead, with the audit ``seq`` that speaks for it and what a person must hear of it."""

    deployment: Deployment
    seq: int
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True)
class Holdings:
    """What a search for a target works on."""

    device: Device
    state: DeviceState
    store: BlobStore
    model: ModelPath
    limits: Limits = DEFAULT_LIMITS


def find_target(
    held: Holdings, *, running: Digest | None, now: datetime, listed: Listed | None = None, only: Digest | None = None
) -> Target | None:
    """The newest bundle that may run instead of ``running``; None if nothing may.

    The rules:
        1. It was committed here, or came with the device, and did not fail here.
        2. Its evidence verifies, from the root given at ``init``.
        3. Memory, floor, withdrawals and policy let it run again (``policy/rollback.py``).
        4. Its blobs are all in the store, and are what their digests say.

    Args:
        held: what is searched.
        running: the manifest that must not be chosen.
        now: trusted time.
        listed: what both roles say about a bundle now, where that is known.
        only: consider this bundle alone.
    """
    found = {bundle.manifest: (bundle, deployment, agreed) for bundle, deployment, agreed in _held(held, listed, now=now)}  # 1, 2
    if only is not None:
        found = {manifest: each for manifest, each in found.items() if manifest == only}
    memory, policy = held.state.memory(held.model), held.device.policy
    while True:
        bundles = [bundle for bundle, _, _ in found.values()]
        choice = choose_fallback(bundles, running=running, memory=memory, policy=policy, now=now)  # 3
        if choice is None:
            return None
        bundle, alarms = choice
        _, deployment, agreed = found.pop(bundle.manifest)
        if _is_whole(held, deployment, agreed):  # 4
            said = bundle.audit if bundle.listed is None else bundle.listed.audit
            return Target(deployment, said.seq, alarms)


def go_back(
    ledger: Ledger, held: Holdings, target: Target | None, *, code: str, detail: str, now: datetime, failed: Deployment | None
) -> None:
    """Makes ``target`` active, or nothing; tells why. In the caller's transaction.

    Args:
        ledger: the book of who does it.
        held: where it is done.
        target: from ``find_target``.
        code: why.
        detail: a sentence for people.
        now: trusted time.
        failed: what ran until now, if anything did.
    """
    state, model = held.state, held.model
    state.end_probation(model)
    if target is None:
        state.deactivate(model)
        about = None if failed is None else (failed.version, failed.manifest)
        told = f"nothing on this device may run ({code}): {detail}"
        ledger.note("alarm", now, code="safe", detail=told, target=about, is_new=True)
        return
    deployment = target.deployment
    about = (deployment.version, deployment.manifest)
    state.fall_back(deployment)
    state.remember_seq(model, deployment.manifest, target.seq)
    ledger.note("rolled_back", now, code=code, detail=detail, target=about, is_new=True)
    for alarm in target.alarms:
        ledger.note("alarm", now, code=alarm.code, detail=alarm.detail, target=about)


def _held(held: Holdings, listed: Listed | None, *, now: datetime) -> Iterator[tuple[HeldBundle, Deployment, AgreedRelease]]:
    committed = held.state.committed(held.model)
    for deployment in held.state.held(held.model):
        if deployment.manifest not in committed:
            continue
        if held.state.known_bad(held.model, deployment.manifest, now=now) is not None:
            continue
        try:
            agreed = verify_installed(held.state, deployment, root=held.device.root, limits=held.limits)
        except VerificationError:
            continue
        said = None if listed is None else listed(deployment.path)
        bundle = HeldBundle(deployment.path, deployment.manifest, deployment.counter, deployment.variant_digest, agreed.audit, said)
        yield bundle, deployment, agreed


def _is_whole(held: Holdings, deployment: Deployment, agreed: AgreedRelease) -> bool:
    try:
        verify_whole(held.store, deployment, agreed=agreed, limits=held.limits)
    except (VerificationError, StateError):
        return False
    return True
