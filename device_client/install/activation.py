"""Step 12 of a poll: the one moment in which what runs changes. All of it, or nothing.

With a probation the bundle runs from here on and is watched (``probation.py``); without one it is committed in the same
transaction.
"""

from __future__ import annotations

from dataclasses import replace

from device_client.bundle.contract import Variant
from device_client.install.cycle import Cycle
from device_client.install.machine import Event
from device_client.install.probation import begin_probation, commit
from device_client.install.state import Deployment
from device_client.policy.memory import check_memory, check_variant_memory
from device_client.policy.policy import check_audit, check_verdict
from device_client.trust.agreement import AgreedRelease
from device_client.trust.evidence import verify_evidence
from device_client.trust.trusted_metadata import TrustedMetadata


def activate(cycle: Cycle, trusted: TrustedMetadata, agreed: AgreedRelease, variant: Variant) -> Deployment:
    """Checks once more what may have changed since (time, memory), then stores all of it in one transaction.

    Raises:
        TrustError, FormatError: the evidence would not convince this device at its next boot.
        PolicyError: the code of what speaks against it by now.
        StateError: the disk refuses; nothing has changed.
    """
    state, model = cycle.state, cycle.model
    evidence = _evidence(cycle, trusted, agreed)
    verify_evidence(evidence, root=cycle.device.root, path=agreed.path, limits=cycle.limits)
    cycle.ledger.go(Event.ACTIVATING)
    now, policy = cycle.now(), cycle.device.policy
    deployment = Deployment(
        model=model,
        version=agreed.path.version,
        manifest=agreed.manifest.digest,
        variant=variant.id,
        variant_digest=variant.model.digest,
        counter=agreed.release.counter,
        seq=agreed.audit.seq,
        installed=now,
    )
    with state.transaction():
        memory = cycle.memory()
        check_memory(agreed, memory)
        check_variant_memory(variant.model.digest, agreed, memory)
        check_audit(agreed.audit, policy, issued=agreed.audit_issued, now=now)
        check_verdict(agreed.audit.variants[variant.model.digest], policy, now=now, where=f"variant {variant.id}")
        _tell_superseded(cycle)
        deployment = replace(deployment, id=state.activate(deployment, evidence))
        state.end_waiting(model)
        begin_probation(cycle.holdings, deployment, at=cycle.uptime())
        if policy.probation.minutes == 0:
            commit(cycle.holdings, deployment, agreed)
            cycle.ledger.finish(Event.ACTIVATED, Event.OBSERVED_GOOD, Event.COMMITTED, event="installed", now=now)
        else:
            watched = f"on probation for {policy.probation.minutes} minutes"
            cycle.ledger.finish(Event.ACTIVATED, event="activated", detail=watched, now=now)
    cycle.found.activated, cycle.found.running, cycle.found.running_code = True, agreed, None
    return deployment


def _tell_superseded(cycle: Cycle) -> None:
    """A bundle that was still watched when a newer one took its place ends here, told once."""
    stored, active = cycle.state.probation(cycle.model), cycle.state.active(cycle.model)
    if stored is None or active is None:
        return
    target = (active.version, active.manifest)
    detail = "a newer release took its place before it was committed"
    cycle.ledger.note("failed", cycle.now(), code="superseded", detail=detail, target=target, is_new=True)


def _evidence(cycle: Cycle, trusted: TrustedMetadata, agreed: AgreedRelease) -> dict[str, bytes]:
    """What proves the agreement to somebody who has only the root that was given at `init`."""
    roots = {f"{version}.root.json": data for version, data in cycle.state.roots().items()}
    return {**roots, **trusted.evidence(agreed.path)}
