"""Steps 5 and 6 of a poll: what the server names, and whether memory, policy and the signed rollout let this device take it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from device_client.bundle.contract import Contract, parse_contract
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.fields import Fields
from device_client.bundle.manifest import Manifest, parse_manifest
from device_client.bundle.path import BundlePath, check_name
from device_client.errors import FormatError, PolicyError
from device_client.install.cycle import Cycle
from device_client.install.download import wanted_model
from device_client.install.newest import raise_floor
from device_client.install.refresh import agree, remember_withdrawal
from device_client.install.state import Deployment
from device_client.policy.memory import check_memory, check_not_withdrawn, check_seq
from device_client.policy.policy import check_audit, check_audit_kind
from device_client.policy.rollout import check_rollout
from device_client.trust.agreement import AgreedRelease
from device_client.trust.refs import BlobRef
from device_client.trust.trusted_metadata import TrustedMetadata


@dataclass(frozen=True)
class ServerSource:
    """The device's own server, as ``cycle.Source``."""

    is_online: bool = True
    grace: timedelta = timedelta(0)

    def next_version(self, cycle: Cycle) -> str | None:
        """What ``ask_next`` says."""
        return ask_next(cycle)


def ask_next(cycle: Cycle) -> str | None:
    """The version that the server names, or None: a hint, nothing more.

    Raises:
        FormatError: an answer that is not of the protocol.
        TransportError: none, or a refusal with the server's code.
    """
    token, _ = cycle.state.enrolment()
    answer = cycle.http.request("GET", f"/v1/devices/me/next?model={cycle.model}", token=token)
    cycle.found.poll_s = _poll_s(answer.headers.get("sealift-poll-seconds", ""))
    if answer.status == 204:
        return None
    fields = Fields(answer.json("next"), where="next")
    if fields.text("model") != str(cycle.model):
        raise FormatError("the server answers for another model", code="next_answer", actual=fields.text("model")[:150])
    cycle.ledger.version = cycle.found.offered = check_name(fields.raw("version"), what="version", where="next.version")
    return cycle.found.offered


def _poll_s(text: str) -> int | None:
    """The server's wish, or None for anything that is none; the agent bounds it (``agent/schedule.py``)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def agree_on_offer(cycle: Cycle, trusted: TrustedMetadata, version: str) -> AgreedRelease:
    """What both roles say about the candidate.

    Raises:
        TrustError, FormatError: what ``TrustedMetadata.agree`` raises.
        PolicyError: ``withdrawn``, with the audit team's own reason.
    """
    agreed = agree(cycle, trusted, BundlePath(cycle.model.line, cycle.model.model, version))
    cycle.ledger.manifest = agreed.manifest.digest
    raise_floor(cycle, [agreed])
    if agreed.audit.status == "withdrawn":
        remember_withdrawal(cycle, agreed, is_running=is_current(cycle, agreed))
        check_audit_kind(agreed.audit, cycle.device.policy)
    return agreed


def is_current(cycle: Cycle, agreed: AgreedRelease) -> bool:
    """True if it is what runs here."""
    active = cycle.state.active(cycle.model)
    return active is not None and active.manifest == agreed.manifest.digest


def stay_current(cycle: Cycle, agreed: AgreedRelease, active: Deployment) -> None:
    """Nothing new: holds what both roles say now against memory, and makes good what this disk has lost or damaged.

    Neither counter nor floor is asked: they limit what is installed, never what runs (DESIGN 4), and after falling back what runs
    is below the highest counter.

    Raises:
        PolicyError: ``seq_rollback`` or ``withdrawn``.
    """
    memory, path = cycle.state.memory(cycle.model), agreed.path
    check_seq(agreed.manifest.digest, agreed.audit, memory, where=path.audit_target)
    check_not_withdrawn(memory.withdrawn.get(agreed.manifest.digest), agreed.audit.seq, where=str(path))
    manifest, contract = fetch_contract(cycle, agreed)
    cycle.fetch([wanted_model(manifest, contract.variant(active.variant))])
    if active.variant_digest in agreed.audit.variants:  # else it says nothing about the bytes that run
        with cycle.state.transaction():
            cycle.state.remember_seq(cycle.model, agreed.manifest.digest, agreed.audit.seq)


def check_offer(cycle: Cycle, agreed: AgreedRelease) -> None:
    """Whether this device may take a release that does not run here yet.

    Raises:
        PolicyError: ``known_bad``, or the code of ``check_memory``, ``check_audit`` or ``check_rollout``.
    """
    now, policy = cycle.now(), cycle.device.policy
    cause = cycle.state.known_bad(cycle.model, agreed.manifest.digest, now=now)
    if cause is not None:
        raise PolicyError(
            "this bundle failed here before",
            code="known_bad",
            where=str(agreed.path),
            actual=cause,
            hint="the running model stays; release a corrected version with a higher counter",
        )
    check_audit(agreed.audit, policy, issued=agreed.audit_issued, now=now)
    check_rollout(
        agreed.release.rollout,
        device=cycle.device.identity.fingerprint,
        manifest=agreed.manifest.digest,
        now_by_offline_roles=cycle.time.now_by_offline_roles(),
    )


def check_offered_memory(cycle: Cycle, agreed: AgreedRelease) -> None:
    """What was seen before does not speak against it.

    Raises:
        PolicyError: the code of the rule in ``check_memory``.
    """
    check_memory(agreed, cycle.memory())


def fetch_contract(cycle: Cycle, agreed: AgreedRelease) -> tuple[Manifest, Contract]:
    """Manifest and contract of a release, from the store or the server."""
    cycle.fetch([agreed.manifest])
    manifest = parse_manifest(cycle.store.read(agreed.manifest.digest), encodings=KNOWN_ENCODINGS, limits=cycle.limits)
    cycle.fetch([BlobRef(manifest.contract.digest, manifest.contract.size)])
    return manifest, parse_contract(cycle.store.read(manifest.contract.digest), encodings=KNOWN_ENCODINGS, limits=cycle.limits)
