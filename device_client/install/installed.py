"""Is what the database calls installed what both roles agreed on, and are its bytes still here? Asked without a network.

At boot, before a rollback, and at the first open. Whoever can write the database can name another bundle there; the evidence,
verified from the read-only root, says which one was signed for, and the store, which bytes (DESIGN 5, R12).
"""

from __future__ import annotations

import contextlib

from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.errors import IntegrityError, StateError, TrustError
from device_client.install.state import DeviceState
from device_client.install.state_deployments import Deployment
from device_client.install.store import BlobStore
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.agreement import AgreedRelease
from device_client.trust.evidence import verify_evidence

_TRIES = 3


def verify_installed(state: DeviceState, deployment: Deployment, *, root: bytes, limits: Limits = DEFAULT_LIMITS) -> AgreedRelease:
    """What both roles agreed on for a deployment, by its own evidence.

    The rules:
        1. The evidence verifies from the root that was given at ``init``.
        2. It is about this manifest and this counter.
        3. It lists an audit of the bytes that the runtime gets.

    Raises:
        TrustError: ``evidence_missing``, ``evidence_mismatch``, or the code of what does not verify.
        FormatError, LimitError: files that are not what they should be.
    """
    agreed = verify_evidence(state.evidence(deployment), root=root, path=deployment.path, limits=limits)  # 1
    told, proved = (deployment.manifest, deployment.counter), (agreed.manifest.digest, agreed.release.counter)
    if told != proved:  # 2
        raise _mismatch(deployment, expected=f"{proved[0]}, counter {proved[1]}", actual=f"{told[0]}, counter {told[1]}")
    if deployment.variant_digest not in agreed.audit.variants:  # 3
        listed = ", ".join(map(str, agreed.audit.variants))[:300]
        raise _mismatch(deployment, expected=f"one of {listed}", actual=str(deployment.variant_digest))
    return agreed


def verify_whole(
    store: BlobStore, deployment: Deployment, *, agreed: AgreedRelease, limits: Limits = DEFAULT_LIMITS
) -> VerifiedBundle:
    """Every blob that the deployment needs is in the store and is what it should be; reads all of them.

    An error of the disk that passes must not cost a bundle, perhaps the last one: it is tried again, some times.

    Raises:
        VerificationError: the code of what is missing, damaged or contradicts itself.
        StateError: the disk cannot be read.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(StateError):
            return _verify_whole(store, deployment, agreed=agreed, limits=limits)
    return _verify_whole(store, deployment, agreed=agreed, limits=limits)


def _verify_whole(store: BlobStore, deployment: Deployment, *, agreed: AgreedRelease, limits: Limits) -> VerifiedBundle:
    bundle = verify_bundle(
        store,
        deployment.manifest,
        manifest_size=agreed.manifest.length,
        path=deployment.path,
        counter=deployment.counter,
        variants=(deployment.variant,),
        decoded=True,
        limits=limits,
    )
    found = bundle.contract.variant(deployment.variant).model.digest
    if found != deployment.variant_digest:
        raise IntegrityError(
            "the bundle's variant is not the one that was installed",
            code="blob_digest_mismatch",
            where=f"{deployment.path}, variant {deployment.variant}",
            expected=deployment.variant_digest,
            actual=found,
        )
    return bundle


def _mismatch(deployment: Deployment, *, expected: str, actual: str) -> TrustError:
    return TrustError(
        "the state names another bundle than both roles signed for",
        code="evidence_mismatch",
        where=str(deployment.path),
        expected=expected,
        actual=actual,
        hint="somebody wrote into this device's state; what was signed for runs again after `sealift device recover`",
    )
