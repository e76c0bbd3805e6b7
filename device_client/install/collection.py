"""Garbage collection: blobs and evidence that nothing on this device may need again go; what runs or may run again stays.

Kept for each model: the active bundle, the previous one, the newest ``KEPT_COMMITTED`` that were committed, and the factory bundle.
Runs under the lock, after an installation and at boot. A power cut in the middle leaves a blob too many, never one too few: what
is kept is known before the first byte goes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from device_client.bundle.contract import parse_contract
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.manifest import parse_manifest
from device_client.bundle.path import ModelPath
from device_client.errors import StateError, VerificationError
from device_client.install.folder import Device
from device_client.install.state import DeviceState
from device_client.install.state_deployments import Deployment
from device_client.install.store import BlobStore

logger = logging.getLogger(__name__)

KEPT_COMMITTED = 3  # the running one among them: two withdrawals in a row still find something that may run


def kept_deployments(state: DeviceState, model: ModelPath) -> list[Deployment]:
    """The deployments of a model whose blobs and evidence stay."""
    committed = state.committed(model)
    newest = sorted((held for held in state.held(model) if held.manifest in committed), key=lambda held: held.counter)
    found = (state.active(model), state.previous(model), state.factory(model), *newest[-KEPT_COMMITTED:])
    return list({deployment.id: deployment for deployment in found if deployment is not None}.values())


def collect(device: Device, state: DeviceState, store: BlobStore, *, keep: Collection[Digest] = ()) -> int:
    """Removes what is not kept; returns how many blobs went. Does nothing where it cannot tell what a kept bundle needs.

    Args:
        device: whose models they are.
        state: its open state.
        store: its blobs.
        keep: blobs that the caller knows of, besides those of bundles.

    Raises:
        StateError: the disk refuses.
    """
    kept = set(keep)
    for model in device.config.models:
        for deployment in kept_deployments(state, model):
            needed = _blobs_of(store, deployment)
            if needed is None:
                return 0
            kept |= needed
    removed = 0
    for digest in store.digests() - kept:
        store.remove(digest)
        removed += 1
    for model in device.config.models:
        with state.transaction():
            state.drop_evidence(model, but={deployment.id for deployment in kept_deployments(state, model)})
    if removed:
        logger.info("%d blobs removed that nothing needs", removed)
    return removed


def _blobs_of(store: BlobStore, deployment: Deployment) -> set[Digest] | None:
    """Every blob of a kept bundle; None if its manifest or contract cannot be read, so that nothing is removed on a guess."""
    try:
        manifest = parse_manifest(store.read(deployment.manifest), encodings=KNOWN_ENCODINGS)
        contract = parse_contract(store.read(manifest.contract.digest), encodings=KNOWN_ENCODINGS)
    except (VerificationError, StateError) as e:
        logger.warning("nothing is collected: %s cannot be read: %s", deployment.path, e)
        return None
    listed = {blob.digest for blob in manifest.blobs} | {variant.model.digest for variant in contract.variants}
    return {deployment.manifest, deployment.variant_digest, *listed}
