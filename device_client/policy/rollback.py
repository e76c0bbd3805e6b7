"""Which bundle that ran here before may run here again: for falling back from a withdrawn one, and by hand.

Milder than an installation where time alone has passed (both roles agreed on the bundle once, and it ran here), and exactly
as strict where anybody has said something against it since. The caller has verified the evidence of the bundle, and that
its blobs are held and whole. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.errors import PolicyError
from device_client.policy.memory import Memory, check_floor, check_not_withdrawn, check_same_bundle, check_seq, equivocation
from device_client.policy.policy import AcceptancePolicy, check_audit_kind, check_verdict_kind
from device_client.policy.standing import Alarm
from device_client.trust.agreement import AgreedRelease
from device_client.trust.custom import AuditCustom
from device_client.trust.times import format_time


@dataclass(frozen=True)
class HeldBundle:
    """A bundle that was committed here before, or the factory bundle.

    Attributes:
        path: its name.
        manifest: its digest.
        counter: its release counter.
        variant: digest of the bytes the runtime would get.
        audit: what the audit role said when it was committed, from its verified evidence.
        listed: what both roles agree on for its name now; None if they do not, or if that was not asked.
        was_asked: whether it was asked what they say now.
    """

    path: BundlePath
    manifest: Digest
    counter: Counter
    variant: Digest
    audit: AuditCustom
    listed: AgreedRelease | None = None
    was_asked: bool = True


def check_rollback_target(held: HeldBundle, *, memory: Memory, policy: AcceptancePolicy, now: datetime) -> tuple[Alarm, ...]:
    """What is asked of a held bundle before it runs again.

    The rules:
        1. Its counter is not below the floor.
        2. Its name still means the same bundle: in memory, and in what both roles agree on now.
        3. What the audit role says now is not older than what this device acted upon.
        4. Neither the bundle nor the bytes that the runtime gets are withdrawn, unless an entry with a higher ``seq``
           restores them. Where both roles name the bundle now, their word counts; else that of its evidence.
        5. The entry is active, and made under an audit policy that this device accepts.
        6. The verdict on those bytes is accepted, and of a sufficient tier; the newest word on them counts.
        7. An expired verdict, and an entry that is no longer listed, are alarms and no obstacle: time alone, or a server
           that keeps silent, takes nothing away from a device (DESIGN 4).

    Args:
        held: the bundle.
        memory: what this device keeps about the model.
        policy: what this device accepts.
        now: trusted time.

    Returns:
        The alarms of rule 7.

    Raises:
        PolicyError: ``below_floor``, ``equivocation``, ``seq_rollback``, ``withdrawn``, ``policy_not_accepted``,
            ``variant_not_audited``, ``verdict_failed`` (or another verdict) or ``tier_not_accepted``.
    """
    where = str(held.path)
    check_floor(held.counter, memory, where=where)  # 1
    check_same_bundle(held.path, held.counter, held.manifest, memory)  # 2
    if held.listed is not None:
        named = held.listed
        _check_names(held, named)
        check_seq(held.manifest, named.audit, memory, where=named.path.audit_target)  # 3
    said = held.audit if held.listed is None else held.listed.audit
    on_bytes = said if held.variant in said.variants else held.audit
    check_not_withdrawn(memory.withdrawn.get(held.manifest), said.seq, where=where)  # 4
    check_not_withdrawn(memory.withdrawn_variants.get(held.variant), on_bytes.seq, where=f"{where}: {held.variant}")
    check_audit_kind(said, policy)  # 5
    check_audit_kind(on_bytes, policy)
    verdict = on_bytes.variants.get(held.variant)
    if verdict is None:  # 6
        raise PolicyError(
            "no audit entry covers the bytes of the held bundle", code="variant_not_audited", where=where, expected=held.variant
        )
    check_verdict_kind(verdict, policy, where=where)
    alarms = []
    if held.was_asked and (on_bytes is not said or held.listed is None):  # 7
        told = f"{where} may run again, but its audit entry is not listed now"
        alarms.append(Alarm(code="entry_unlisted", detail=told))
    if now >= verdict.expires:
        told = f"{where} may run again, but its verdict expired at {format_time(verdict.expires)}"
        alarms.append(Alarm(code="verdict_expired", detail=told))
    return tuple(alarms)


def _check_names(held: HeldBundle, named: AgreedRelease) -> None:
    here, there = (held.path, held.counter, held.manifest), (named.path, named.release.counter, named.manifest.digest)
    if here != there:
        raise equivocation(str(held.path), " ".join(map(str, here)), " ".join(map(str, there)))


def choose_fallback(
    held: Iterable[HeldBundle], *, running: Digest | None, memory: Memory, policy: AcceptancePolicy, now: datetime
) -> tuple[HeldBundle, tuple[Alarm, ...]] | None:
    """The newest bundle, by counter, that may run again instead of the one whose manifest is ``running``; None if none may."""
    for bundle in sorted(held, key=lambda bundle: bundle.counter, reverse=True):
        if bundle.manifest == running:
            continue
        try:
            return bundle, check_rollback_target(bundle, memory=memory, policy=policy, now=now)
        except PolicyError:
            continue
    return None
