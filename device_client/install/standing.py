"""The end of every poll, also of a refused or failed one: may what runs go on running, and who must hear of what?

Gathers the facts for ``policy/standing.py`` and does what that says, in one transaction: day counts, alarms (each told once, as
long as it holds), falling back, stopping, and letting run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.bundle.verified import verify_bundle
from device_client.errors import SealiftError, StateError, VerificationError
from device_client.install.cycle import Cycle
from device_client.install.refresh import agree
from device_client.install.state import Deployment
from device_client.install.state_standing import PATIENCE_KINDS
from device_client.policy.lag import find_lag
from device_client.policy.memory import Memory
from device_client.policy.patience import DayCount, counted
from device_client.policy.reactions import Reaction, Reactions
from device_client.policy.rollback import HeldBundle, choose_fallback
from device_client.policy.standing import Action, Alarm, Situation, Standing, judge
from device_client.trust.rules import LIFETIME_CAPS

_CHANNEL = "channel"


@dataclass(frozen=True)
class Fallback:
    """A held bundle that may run instead, as it was installed."""

    deployment: Deployment
    seq: int
    alarms: tuple[Alarm, ...]


def settle(cycle: Cycle, refusal: SealiftError | None) -> Standing:
    """Judges the running model and acts on it.

    Args:
        cycle: the poll, with what it found out.
        refusal: what it ended with, if not well.

    Raises:
        StateError: the state cannot be written; nothing was done.
    """
    state, model, now = cycle.state, cycle.model, cycle.now()
    active, reactions = state.active(model), cycle.device.policy.reactions_for(model)
    is_gone = active is not None and is_withdrawn(active, state.memory(model))
    is_wanted = is_gone and reactions.withdrawn is Reaction.FALL_BACK and not reactions.unsafe_keep_withdrawn
    fallback = find_fallback(cycle, active) if active is not None and is_wanted else None
    counts = _count_days(cycle, active, refusal, now=now)
    situation = Situation(running=active is not None, withdrawn=is_gone, can_fall_back=fallback is not None, **counts)
    standing = judge(situation, reactions)
    with state.transaction():
        for kind, count in counts.items():
            state.set_patience(model, kind, count)
        _keep_proofs(cycle)
        _tell_alarms(cycle, standing, active, refusal, now=now)
        if standing.action is Action.FALL_BACK and fallback is not None:
            _fall_back(cycle, fallback, now=now)
        _stop_or_run(cycle, standing, reactions, now=now)
    return standing


def is_withdrawn(running: Deployment, memory: Memory) -> bool:
    """Whether the bundle, or the bytes that it gives the runtime, are withdrawn and no newer entry has restored them."""
    acted_upon = memory.seqs.get(running.manifest, 0)
    seqs = (memory.withdrawn.get(running.manifest), memory.withdrawn_variants.get(running.variant_digest))
    return any(seq is not None and acted_upon <= seq for seq in seqs)


def find_fallback(cycle: Cycle, running: Deployment) -> Fallback | None:
    """The newest held bundle that may run instead; None where nothing is known afresh, or nothing may.

    The rules:
        1. Both roles still name it, in the metadata of this poll.
        2. It did not fail here.
        3. Memory, floor, withdrawals and policy let it run again (``policy/rollback.py``).
        4. Its blobs are all in the store, and are what their digests say.
    """
    found = {held.manifest: (held, deployment) for held, deployment in _held(cycle)}  # 1, 2
    memory, policy = cycle.state.memory(cycle.model), cycle.device.policy
    while True:
        bundles = [held for held, _ in found.values()]
        choice = choose_fallback(bundles, running=running.manifest, memory=memory, policy=policy, now=cycle.now())  # 3
        if choice is None:
            return None
        held, alarms = choice
        _, deployment = found.pop(held.manifest)
        if _is_whole(cycle, held, deployment):  # 4
            seq = held.audit.seq
            return Fallback(deployment, seq, alarms)


def _held(cycle: Cycle) -> Iterator[tuple[HeldBundle, Deployment]]:
    trusted = cycle.found.trusted
    for deployment in cycle.state.held(cycle.model) if trusted is not None else ():
        path = BundlePath(cycle.model.line, cycle.model.model, deployment.version)
        if cycle.state.known_bad(cycle.model, deployment.manifest, now=cycle.now()) is not None or trusted is None:
            continue
        try:
            listed = agree(cycle, trusted, path)
        except VerificationError:
            continue
        held = HeldBundle(path, deployment.manifest, deployment.counter, deployment.variant_digest, listed.audit, listed)
        yield held, deployment


def _is_whole(cycle: Cycle, held: HeldBundle, deployment: Deployment) -> bool:
    try:
        bundle = verify_bundle(
            cycle.store,
            held.manifest,
            path=held.path,
            counter=held.counter,
            variants=(deployment.variant,),
            decoded=True,
            limits=cycle.limits,
        )
    except (VerificationError, StateError):
        return False
    return bundle.contract.variant(deployment.variant).model.digest == deployment.variant_digest


# Day counts.


def _count_days(cycle: Cycle, active: Deployment | None, refusal: SealiftError | None, *, now: datetime) -> dict[str, DayCount]:
    found = cycle.found
    lag = find_lag(
        found.newest,
        device=cycle.device.identity.fingerprint,
        running=None if active is None else active.counter,
        offered=found.offered,
        activated=found.activated,
        now_by_offline_roles=cycle.time.now_by_offline_roles(),
    )
    holds = {"expired": _has_expired(cycle, active, refusal, now=now), "behind": lag.behind, "withheld": lag.withheld}
    return {
        kind: counted(cycle.state.patience(cycle.model, kind), holds=holds[kind], now=now) for kind in PATIENCE_KINDS
    }  # fmt: skip


def _has_expired(cycle: Cycle, active: Deployment | None, refusal: SealiftError | None, *, now: datetime) -> bool | None:
    """Whether metadata, or the running bundle's verdict, has expired; None if this poll could not find it out.

    Where no server answers, what was seen last counts: an attacker who cuts the network must not do better than one who
    shows the same old metadata for ever.
    """
    found, codes = cycle.found, {cycle.found.running_code, None if refusal is None else refusal.code}
    if "metadata_expired" in codes:
        return True
    if found.running is not None and active is not None:
        verdict = found.running.audit.variants.get(active.variant_digest)
        return verdict is not None and now >= verdict.expires
    until = cycle.state.proofs_until(cycle.model)
    if until is not None and now >= until:
        return True
    return None if found.trusted is None else False


def _keep_proofs(cycle: Cycle) -> None:
    """Until when what was seen in this poll counts: the first of the offline roles and the verdict to expire."""
    trusted, running = cycle.found.trusted, cycle.found.running
    active = cycle.state.active(cycle.model)
    if trusted is None or running is None or active is None:
        return
    verdict = running.audit.variants.get(active.variant_digest)
    ends = [trusted.root.expires, trusted.targets.expires, running.audit_issued + LIFETIME_CAPS["audit"]]
    cycle.state.set_proofs_until(cycle.model, min([*ends, *([] if verdict is None else [verdict.expires])]))


# What follows from it; in the transaction of ``settle``.


def _tell_alarms(
    cycle: Cycle, standing: Standing, active: Deployment | None, refusal: SealiftError | None, *, now: datetime
) -> None:
    """Tells each alarm once, as long as it holds; forgets those that no longer hold, so that they would be told again."""
    state, model, found = cycle.state, cycle.model, cycle.found
    target = None if active is None else (active.version, active.manifest)
    subject = "" if active is None else str(active.manifest)
    known = {(alarm.code, alarm.subject) for alarm in state.alarms(model)}
    holding = set()

    def tell(event: str, code: str, detail: str, *, about: str) -> None:
        holding.add((code, about))
        if state.raise_alarm(model, code=code, subject=about, now=now):
            cycle.ledger.note(event, now, code=code, detail=detail, target=target, is_new=True)

    for alarm in standing.alarms:
        tell("alarm", alarm.code, _detail(alarm, found.reasons, active), about=subject)
    told = None if refusal is None else refusal.code
    if found.channel_code is not None and (found.channel_code != told or (found.channel_code, _CHANNEL) in known):
        tell("alarm", found.channel_code, "the channel document is ignored", about=_CHANNEL)
    if found.unaudited is not None and found.unaudited != found.offered:  # offered, the refusal has told it
        waits = f"the channel's newest release {found.unaudited} has no audit entry yet"
        tell("awaiting_audit", "audit_entry_missing", waits, about=found.unaudited)
    if found.trusted is None:  # nothing was learned about the channel
        holding |= {(code, about) for code, about in known if about != subject}
    state.clear_alarms(model, but=holding)


def _detail(alarm: Alarm, reasons: dict[Digest, str], active: Deployment | None) -> str:
    reason = None if active is None or alarm.code != "withdrawn" else reasons.get(active.manifest)
    return alarm.detail if not reason else f"{alarm.detail}; reason: {reason}"


def _fall_back(cycle: Cycle, fallback: Fallback, *, now: datetime) -> None:
    """Changes what runs; raises or lowers no counter and no floor."""
    deployment = fallback.deployment
    target = (deployment.version, deployment.manifest)
    cycle.state.fall_back(deployment)
    cycle.state.remember_seq(cycle.model, deployment.manifest, fallback.seq)
    cycle.ledger.note("rolled_back", now, code="withdrawn", detail="fell back from a withdrawn bundle", target=target)
    for alarm in fallback.alarms:
        cycle.ledger.note("alarm", now, code=alarm.code, detail=alarm.detail, target=target)


def _stop_or_run(cycle: Cycle, standing: Standing, reactions: Reactions, *, now: datetime) -> None:
    state, model = cycle.state, cycle.model
    before = state.stopped(model)
    if standing.action is Action.STOP:
        code = _cause(standing, reactions)
        if before is None or before.code != code:
            state.stop(model, code=code, now=now)
            cycle.ledger.note("alarm", now, code="stopped_by_policy", detail=f"the model is stopped: {code}")
    elif before is not None:
        state.unstop(model)
        cycle.ledger.note("current", now, detail=f"the model runs again: {before.code} no longer holds")


def _cause(standing: Standing, reactions: Reactions) -> str:
    """The first alarm whose reaction is to stop."""
    reaction = {
        "withdrawn": reactions.withdrawn,
        "metadata_frozen": reactions.expired,
        "behind": reactions.behind,
        "withheld": reactions.withheld,
    }
    return next(alarm.code for alarm in standing.alarms if reaction.get(alarm.code) is Reaction.STOP)
