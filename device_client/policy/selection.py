"""Which variant of a bundle this device runs: the first, in the contract's order, that fits it and that was audited.

The order is the release engineer's preference. The choice is deterministic and monotone in memory: more memory can
only add variants, so it never leads to one further down. A variant without an audit entry does not exist for the
device (DESIGN 4). Pure; ``install/facts.py`` finds out what the device is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.contract import Contract, Variant
from device_client.errors import PolicyError
from device_client.policy.policy import AcceptancePolicy, check_verdict
from device_client.trust.custom import AuditCustom

RUNTIME = "onnxruntime"
FORMAT = "onnx"


@dataclass(frozen=True)
class DeviceFacts:
    """What this machine is and can do. ``cpu_features`` are the kernel's names (``/proc/cpuinfo``), lower case."""

    arch: str
    cpu_features: frozenset[str]
    ram_bytes: int
    providers: tuple[str, ...]
    runtime: str
    client: str


def select_variant(
    contract: Contract, audit: AuditCustom, *, policy: AcceptancePolicy, facts: DeviceFacts, now: datetime
) -> Variant:
    """The variant to install.

    Raises:
        PolicyError: ``no_variant_fits`` if none runs here; else, for the first that does, why its audit does not do:
            ``variant_not_audited``, ``verdict_failed`` (or another verdict), ``tier_not_accepted`` or ``verdict_expired``.
    """
    misfits = {variant.id: _misfit(variant, facts) for variant in contract.variants}
    fitting = [variant for variant in contract.variants if not misfits[variant.id]]
    if not fitting:
        raise PolicyError(
            "no variant of the bundle runs on this device",
            code="no_variant_fits",
            where=str(contract.path),
            actual="; ".join(f"{name}: {reason}" for name, reason in misfits.items())[:500],
            hint="release a variant for this class of device",
        )
    refusals: list[PolicyError] = []
    for variant in fitting:
        try:
            _check_audited(variant, audit, policy=policy, now=now)
        except PolicyError as refusal:
            refusals.append(refusal)
        else:
            return variant
    raise refusals[0]


def _check_audited(variant: Variant, audit: AuditCustom, *, policy: AcceptancePolicy, now: datetime) -> None:
    entry = audit.variants.get(variant.model.digest)
    if entry is None:
        raise PolicyError(
            "the audit entry does not cover this variant's bytes",
            code="variant_not_audited",
            where=f"variant {variant.id}",
            expected=variant.model.digest,
            actual=", ".join(str(digest) for digest in audit.variants)[:300] or "no variant",
            hint="the security team audits exactly the bytes that are shipped",
        )
    check_verdict(entry, policy, now=now, where=f"variant {variant.id}")


def _misfit(variant: Variant, facts: DeviceFacts) -> str:
    """Why the variant does not run here, or an empty string."""
    needs = variant.requires
    if (variant.runtime, variant.format) != (RUNTIME, FORMAT):
        return f"runtime {variant.runtime} {variant.format}, this device has {RUNTIME} {FORMAT}"
    if needs.arch and facts.arch not in needs.arch:
        return f"for {_list(needs.arch)}, this device is {facts.arch}"
    missing = [name for name in needs.cpu_features if name.lower() not in facts.cpu_features]
    if missing:
        return f"needs {_list(missing)}"
    if needs.ram_bytes > facts.ram_bytes:
        return f"needs {needs.ram_bytes} bytes of memory, this device has {facts.ram_bytes}"
    if needs.providers and not _shared(needs.providers, facts.providers):
        return f"needs one of {_list(needs.providers)}"
    return ""


def providers_for(variant: Variant, available: Collection[str]) -> tuple[str, ...]:
    """The execution providers to open the variant with: what it asks for and the device has, else all of the device's."""
    return tuple(name for name in available if not variant.requires.providers or name in variant.requires.providers)


def _shared(wanted: Iterable[str], available: Collection[str]) -> bool:
    return any(name in available for name in wanted)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
