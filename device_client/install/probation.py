"""A new bundle runs and is watched (``policy/probation.py``): committed when it was observed good, rolled back when it was not.

Judged at the start of every poll and at boot, from what ``health.py`` counted meanwhile. Each outcome is one transaction.
"""

from __future__ import annotations

from datetime import datetime

from device_client.errors import VerificationError
from device_client.install.installed import verify_installed
from device_client.install.ledger import FORGIVEN_AFTER, Ledger
from device_client.install.machine import Event, State
from device_client.install.rollback import Holdings, find_target, go_back
from device_client.install.state_deployments import Deployment
from device_client.install.state_probation import Probation, Stretch
from device_client.policy.probation import Judgement, Observation, Verdict, judge_probation
from device_client.trust.agreement import AgreedRelease
from device_client.trust.trusted_time import BootTime

_FORGIVEN = ("probation_unobserved", "probation_crashes", "probation_boots")  # causes that may lie in the moment


def begin_probation(held: Holdings, deployment: Deployment, *, at: BootTime) -> None:
    """The bundle that has just become active is watched from now on; in the caller's transaction."""
    fresh = Probation(deployment.id, deployment.manifest, Stretch.beginning(at), Observation())
    held.state.set_probation(held.model, fresh)


def watch(held: Holdings, ledger: Ledger, *, now: datetime, at: BootTime) -> Verdict | None:
    """Counts time and boots in, judges, and acts; None if nothing is on probation.

    Raises:
        StateError: the state cannot be written, or the store's key cannot be had now; nothing was done.
    """
    state, model = held.state, held.model
    active, stored = state.active(model), state.probation(model)
    if stored is None or active is None or active.id != stored.deployment:
        return None
    found = stored.at(at)
    judgement = judge_probation(found.seen, held.device.policy.probation)
    if judgement.verdict is Verdict.WAIT:
        with state.transaction():
            state.set_probation(model, found)
    elif judgement.verdict is Verdict.COMMIT:
        _commit(held, ledger, active, now=now)
    else:
        _roll_back(held, ledger, active, judgement, now=now)
    return judgement.verdict


def commit(held: Holdings, deployment: Deployment, agreed: AgreedRelease) -> None:
    """The bundle counts as history: its counter and floor are never lowered. In the caller's transaction."""
    held.state.end_probation(held.model)
    held.state.commit(deployment, floor=agreed.release.floor)


def _commit(held: Holdings, ledger: Ledger, active: Deployment, *, now: datetime) -> None:
    try:
        agreed = verify_installed(held.state, active, root=held.device.root, limits=held.limits)
    except VerificationError as refusal:  # the state was written by somebody: what it names is no history of this device
        _roll_back(held, ledger, active, Judgement(Verdict.ROLL_BACK, refusal.code, str(refusal)), now=now)
        return
    with held.state.transaction(), ledger.resting_at(State.PROBATION):
        ledger.about(active)
        commit(held, active, agreed)
        ledger.finish(Event.OBSERVED_GOOD, Event.COMMITTED, event="installed", now=now)


def _roll_back(held: Holdings, ledger: Ledger, active: Deployment, judgement: Judgement, *, now: datetime) -> None:
    held.store.check_key()
    code = judgement.code or "probation"
    until = now + FORGIVEN_AFTER if code in _FORGIVEN else None
    target = find_target(held, running=active.manifest, now=now)
    detail = f"{active.path} was not observed good: {judgement.measured}; {judgement.allowed}".rstrip("; ")
    with held.state.transaction(), ledger.resting_at(State.PROBATION):
        ledger.about(active)
        held.state.remember_bad(held.model, active.manifest, cause=code, until=until)
        ledger.step(Event.OBSERVED_BAD, now=now)
        go_back(ledger, held, target, code=code, detail=detail, now=now, failed=active)
        ledger.step(*((Event.NOTHING_LEFT,) if target is None else (Event.ROLLED_BACK, Event.REPORTED)), now=now)
