"""Agreement of two roles on one manifest: Sealift's AND, which TUF does not have (DESIGN 4).

``check_agreement`` is the numbered list, pure, on the role objects of one refresh. Neither the release team nor the
audit team can ship alone; the keys of the server cannot ship at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Root, TargetFile, Targets

from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.errors import TrustError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.bins import bin_of, check_bin, check_bins
from device_client.trust.custom import AuditCustom, ReleaseCustom, parse_audit_custom, parse_release_custom
from device_client.trust.refs import BlobRef
from device_client.trust.rules import (
    check_lifetime,
    check_paths,
    check_separation,
    delegation_for,
    epoch_of,
    expected_pattern,
    issued_at,
    keys_of,
)

_PROOF = object()


@dataclass(frozen=True)
class LoadedRole:
    """A verified delegated role of one refresh, with those of its bins that were asked for, by name."""

    signed: Targets
    bins: Mapping[str, Targets] = field(default_factory=dict)

    def entry(self, target: str) -> TargetFile | None:
        """What the role, or the one bin that may, lists under ``target``."""
        name = bin_of(self.signed, target)
        holder = self.signed if name is None else self.bins.get(name)
        return None if holder is None else holder.targets.get(target)


@dataclass(frozen=True)
class AgreedRelease:
    """A manifest that both roles name, with what each says about it. Made by ``check_agreement`` only.

    ``audit_issued``: when the audit role, or the bin of it, was signed.
    """

    path: BundlePath
    manifest: BlobRef
    release: ReleaseCustom
    audit: AuditCustom
    audit_issued: datetime
    proof: object

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            raise TypeError("an AgreedRelease is made by check_agreement only")


def check_agreement(
    path: BundlePath, *, root: Root, targets: Targets, roles: Mapping[str, LoadedRole], limits: Limits = DEFAULT_LIMITS
) -> AgreedRelease:
    """Returns the manifest that release and audit agree on.

    Args:
        path: the version asked for.
        root: verified root of the refresh.
        targets: verified top-level targets of the same refresh.
        roles: verified delegated roles by name, loaded under that targets; a role that snapshot does not list is absent.
        limits: bounds on what the entries may name.

    The rules:
        1. Top-level targets lists no target.
        2. Exactly one delegation matches each of the two paths: the pinned role, with its one pattern, terminating.
        3. Keys of release, audit and the online roles are disjoint by decoded value.
        4. Targets and both roles say when they were issued, and live no longer than their cap.
        5. Both roles list only their own, well-formed paths, and delegate no further but to bins with their own keys.
        6. The release role lists the release path, and the audit role the audit path.
        7. Each entry's hashes are exactly sha256.
        8. Both entries name the same length and sha256.
        9. Both custom records fit their closed schemas, with the same counter and floor.
       10. The counter's epoch is the one that targets sets for the model.

    Raises:
        TrustError, FormatError: with the code of the rule.
    """
    if targets.targets:  # 1
        raise TrustError(
            "top-level targets lists a target",
            code="targets_lists_targets",
            where=sorted(targets.targets)[0][:200],
            hint="only delegated roles may list targets; ask who holds the offline targets keys",
        )
    model = path.of_model
    wanted = {path.release_target: model.release_role, path.audit_target: model.audit_role}
    for target, role in wanted.items():  # 2
        _check_delegation(targets, target, role)
    check_separation(root, targets, model)  # 3
    check_lifetime(targets, role="targets")  # 4, 5
    for role in wanted.values():
        if role in roles:
            check_role(roles[role], targets, role)
    release = _entry(roles, model.release_role, path.release_target, code="release_entry_missing")  # 6
    audit = _entry(roles, model.audit_role, path.audit_target, code="audit_entry_missing")
    release_ref, audit_ref = _ref(release, limits), _ref(audit, limits)  # 7
    if release_ref != audit_ref:  # 8
        raise TrustError(
            "release and audit name different bytes",
            code="entries_differ",
            where=str(path),
            expected=release_ref.digest,
            actual=audit_ref.digest,
        )
    release_custom = parse_release_custom(release.custom, f"{path.release_target} custom")  # 9
    audit_custom = parse_audit_custom(audit.custom, f"{path.audit_target} custom")
    if (release_custom.counter, release_custom.floor) != (audit_custom.counter, audit_custom.floor):
        raise TrustError("release and audit disagree on counter or floor", code="custom_mismatch", where=str(path))
    if release_custom.counter.epoch != epoch_of(targets, model):  # 10
        raise TrustError(
            "the counter is of another epoch",
            code="epoch_mismatch",
            where=str(path),
            expected=epoch_of(targets, model),
            actual=release_custom.counter.epoch,
        )
    audit_role = roles[model.audit_role]
    audit_bin = bin_of(audit_role.signed, path.audit_target)
    signed = audit_role.signed if audit_bin is None else audit_role.bins[audit_bin]
    return AgreedRelease(path, release_ref, release_custom, audit_custom, issued_at(signed, where=model.audit_role), _PROOF)


def check_role(role: LoadedRole, targets: Targets, name: str) -> None:
    """Rules 4 and 5 on one role and its loaded bins.

    Raises:
        TrustError: what ``check_lifetime``, ``check_bins``, ``check_bin`` and ``check_paths`` raise.
    """
    delegation = delegation_for(targets, name)
    check_lifetime(role.signed, role=name)
    check_bins(role.signed, delegation, keys=keys_of(targets, name))
    check_paths(role.signed, delegation)
    for bin_name, signed in role.bins.items():
        check_lifetime(signed, role=bin_name)
        check_bin(signed, role.signed, bin_name)
        check_paths(signed, delegation)


def _check_delegation(targets: Targets, target: str, role: str) -> None:
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        raise TrustError("targets delegates by no named role", code="delegation_ambiguous", where=target)
    matching = [name for name, delegation in delegations.roles.items() if delegation.is_delegated_path(target)]
    if matching != [role]:
        raise TrustError(
            "not exactly the pinned role may list this path",
            code="delegation_ambiguous",
            where=target,
            expected=role,
            actual=", ".join(matching) or "none",
        )
    delegation = delegations.roles[role]
    if delegation.paths != [expected_pattern(role)] or not delegation.terminating:
        raise TrustError(
            "the delegation is not of the agreed form",
            code="delegation_ambiguous",
            where=role,
            expected=expected_pattern(role),
            actual=delegation.paths,
        )


def _entry(roles: Mapping[str, LoadedRole], role: str, target: str, *, code: str) -> TargetFile:
    entry = roles[role].entry(target) if role in roles else None
    if entry is None:
        raise TrustError(
            f"the role {role} has no entry for this version",
            code=code,
            where=target,
            hint="the running model stays; ask the team of that role",
        )
    return entry


def _ref(entry: TargetFile, limits: Limits) -> BlobRef:
    if set(entry.hashes) != {"sha256"}:
        raise TrustError(
            "the entry's hashes are not exactly sha256",
            code="hash_not_sha256",
            where=entry.path,
            actual=", ".join(sorted(entry.hashes)),
        )
    if entry.length > limits.max_manifest_bytes:
        raise TrustError("the entry names a manifest beyond the limit", code="too_large", where=entry.path, actual=entry.length)
    return BlobRef(Digest(entry.hashes["sha256"]), entry.length)
