"""Step 12 of a poll: the one moment in which what runs changes. All of it, or nothing."""

from __future__ import annotations

from device_client.bundle.contract import Variant
from device_client.install.cycle import Cycle
from device_client.install.machine import Event
from device_client.install.state import Deployment
from device_client.policy.memory import check_memory, check_variant_memory
from device_client.policy.policy import check_audit, check_verdict
from device_client.trust.agreement import AgreedRelease
from device_client.trust.trusted_metadata import TrustedMetadata


def activate(cycle: Cycle, trusted: TrustedMetadata, agreed: AgreedRelease, variant: Variant) -> Deployment:
    """Checks once more what may have changed since (time, memory), then stores all of it in one transaction.

    Raises:
        PolicyError: the code of what speaks against it by now.
        StateError: the disk refuses; nothing has changed.
    """
    evidence = _evidence(cycle, trusted, agreed)
    cycle.ledger.go(Event.ACTIVATING)
    now, policy = cycle.now(), cycle.device.policy
    deployment = Deployment(
        model=cycle.model,
        version=agreed.path.version,
        manifest=agreed.manifest.digest,
        variant=variant.id,
        variant_digest=variant.model.digest,
        counter=agreed.release.counter,
        seq=agreed.audit.seq,
        installed=now,
    )
    with cycle.state.transaction():
        memory = cycle.state.memory(cycle.model)
        check_memory(agreed, memory)
        check_variant_memory(variant.model.digest, agreed, memory)
        check_audit(agreed.audit, policy, issued=agreed.audit_issued, now=now)
        check_verdict(agreed.audit.variants[variant.model.digest], policy, now=now, where=f"variant {variant.id}")
        cycle.state.activate(deployment, evidence, floor=agreed.release.floor)
        cycle.ledger.finish(Event.ACTIVATED, Event.COMMITTED, now=now)
    cycle.found.activated, cycle.found.running, cycle.found.running_code = True, agreed, None
    return deployment


def _evidence(cycle: Cycle, trusted: TrustedMetadata, agreed: AgreedRelease) -> dict[str, bytes]:
    """What proves the agreement to somebody who has only the root that was given at `init`."""
    roots = {f"{version}.root.json": data for version, data in cycle.state.roots().items()}
    return {**roots, **trusted.evidence(agreed.path)}
