"""What the device remembers against the past: counters, floors, withdrawals, and which bytes carried a name.

Pure: the database (``install/state.py``) hands in what it keeps and stores what these functions return. None of it is
ever reset: a wiped cache, a re-keyed role or a new enrolment lowers nothing (DESIGN 4, "Memory").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.errors import PolicyError
from device_client.trust.agreement import AgreedRelease
from device_client.trust.custom import AuditCustom


@dataclass(frozen=True)
class Memory:
    """What is remembered about one model.

    Attributes:
        counter: the highest release counter that was committed here.
        manifest: the bundle that carried it.
        versions: version name to the bundle that was committed under it.
        floor: the lowest counter that may be installed or rolled back to.
        seqs: bundle to the highest ``seq`` of its audit entry that this device acted upon.
        withdrawn: bundle to the ``seq`` under which it was withdrawn.
        withdrawn_variants: digest of the runtime's bytes to the ``seq`` under which they were withdrawn.
    """

    counter: Counter | None = None
    manifest: Digest | None = None
    versions: Mapping[str, Digest] = field(default_factory=dict)
    floor: Counter | None = None
    seqs: Mapping[Digest, int] = field(default_factory=dict)
    withdrawn: Mapping[Digest, int] = field(default_factory=dict)
    withdrawn_variants: Mapping[Digest, int] = field(default_factory=dict)


def with_running(memory: Memory, *, counter: Counter, manifest: Digest, version: str) -> Memory:
    """The memory as it would be if the bundle that runs were committed: nothing below it is taken while it is watched.

    Should it be rolled back, the device's memory is the old one again.
    """
    is_newest = memory.counter is None or counter > memory.counter
    return replace(
        memory,
        counter=counter if is_newest else memory.counter,
        manifest=manifest if is_newest else memory.manifest,
        versions={**memory.versions, version: manifest},
    )


def check_memory(agreed: AgreedRelease, memory: Memory) -> None:
    """What the device asks of a release because of what it has seen before.

    The rules:
        1. The counter is not below the highest one committed here.
        2. The same counter is the same bundle.
        3. The same version is the same bundle.
        4. The counter is not below the floor.
        5. The audit entry is not older than the one acted upon.
        6. The bundle was not withdrawn, unless an entry with a higher ``seq`` restores it.

    Raises:
        PolicyError: ``counter_rollback``, ``equivocation``, ``below_floor``, ``seq_rollback`` or ``withdrawn``.
    """
    counter, digest = agreed.release.counter, agreed.manifest.digest
    if memory.counter is not None and counter < memory.counter:  # 1
        raise PolicyError(
            "the release counter is below the one installed here before",
            code="counter_rollback",
            where=str(agreed.path),
            expected=f"at least {memory.counter}",
            actual=counter,
            hint="going back is a new release of the old layers with a higher counter",
        )
    check_same_bundle(agreed.path, counter, digest, memory)  # 2, 3
    check_floor(counter, memory, where=str(agreed.path))  # 4
    check_seq(digest, agreed.audit, memory, where=agreed.path.audit_target)  # 5
    check_not_withdrawn(memory.withdrawn.get(digest), agreed.audit.seq, where=str(agreed.path))  # 6


def check_variant_memory(variant: Digest, agreed: AgreedRelease, memory: Memory) -> None:
    """A model's bytes that were withdrawn stay so in every bundle, until an active entry with a higher ``seq``.

    Args:
        variant: digest of the bytes the runtime gets.
        agreed: the release that would bring them.
        memory: what this device keeps about the model.

    Raises:
        PolicyError: ``withdrawn``.
    """
    check_not_withdrawn(memory.withdrawn_variants.get(variant), agreed.audit.seq, where=f"{agreed.path}: {variant}")


# The single rules, which `rollback.py` asks too.


def check_same_bundle(path: BundlePath, counter: Counter, manifest: Digest, memory: Memory) -> None:
    """One counter and one version never mean two bundles.

    Raises:
        PolicyError: ``equivocation``.
    """
    if counter == memory.counter and manifest != memory.manifest:
        raise equivocation(f"counter {counter} of {path.of_model}", memory.manifest, manifest)
    known = memory.versions.get(path.version)
    if known is not None and known != manifest:
        raise equivocation(str(path), known, manifest)


def check_floor(counter: Counter, memory: Memory, *, where: str) -> None:
    """The counter is not below the floor.

    Raises:
        PolicyError: ``below_floor``.
    """
    if memory.floor is not None and counter < memory.floor:
        raise PolicyError(
            "the release counter is below this device's floor",
            code="below_floor",
            where=where,
            expected=f"at least {memory.floor}",
            actual=counter,
        )


def check_seq(manifest: Digest, audit: AuditCustom, memory: Memory, *, where: str) -> None:
    """The audit entry is not older than the one acted upon.

    Raises:
        PolicyError: ``seq_rollback``.
    """
    acted_upon = memory.seqs.get(manifest, 0)
    if audit.seq < acted_upon:
        raise PolicyError(
            "an older audit entry than the one this device acted upon",
            code="seq_rollback",
            where=where,
            expected=f"at least {acted_upon}",
            actual=audit.seq,
        )


def check_not_withdrawn(withdrawn: int | None, seq: int, *, where: str) -> None:
    """What was withdrawn stays so until an entry with a higher ``seq``.

    Args:
        withdrawn: the ``seq`` under which it was withdrawn, or None if it was not.
        seq: of the entry that would let it run.
        where: what it is about, for errors.

    Raises:
        PolicyError: ``withdrawn``.
    """
    if withdrawn is not None and seq <= withdrawn:
        raise PolicyError(
            "withdrawn by the audit team",
            code="withdrawn",
            where=where,
            expected=f"an active entry with seq above {withdrawn}",
            actual=f"seq {seq}",
            hint="the running model stays; ask the security team",
        )


def is_withdrawn(manifest: Digest, variant: Digest, memory: Memory) -> bool:
    """Whether a bundle that runs here, or the bytes that it gives the runtime, are withdrawn and were not restored.

    What restores them is an active entry of the bundle with a higher ``seq``, once this device has acted upon it.
    """
    acted_upon = memory.seqs.get(manifest, 0)
    withdrawn = (memory.withdrawn.get(manifest), memory.withdrawn_variants.get(variant))
    return any(seq is not None and acted_upon <= seq for seq in withdrawn)


def raised_floor(floor: Counter | None, candidate: Counter) -> Counter:
    """The higher of the two: a floor never comes down."""
    return candidate if floor is None or candidate > floor else floor


def equivocation(where: str, known: object, seen: object) -> PolicyError:
    """The refusal of a name that means two bundles."""
    return PolicyError(
        "one name for two different bundles",
        code="equivocation",
        where=where,
        expected=known,
        actual=seen,
        hint="a released version never changes; release a new version with a higher counter",
    )
