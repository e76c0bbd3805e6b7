"""Evidence: the signed files that an installation rested on, verified again without a network and without a clock.

A deployment keeps the root chain, targets and both roles (with the bin that lists it) as they were fetched. At activation, at
boot and at the first open this function takes the manifest's digest from *them*, from the read-only root on: whoever can
write the device's database alone cannot choose a model (DESIGN 5).

    agreed = verify_evidence(files, root=root_bytes, path=BundlePath("digits", "ocr", "1.0.0"))

Deliberately absent: expiry (it stops new installations, never what runs), version marks, counters and withdrawals, which
belong to the moment and are asked by whoever calls this. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from device_client.bundle.path import BundlePath
from device_client.errors import FormatError, TrustError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.agreement import AgreedRelease, LoadedRole, check_agreement
from device_client.trust.bins import bin_of
from device_client.trust.rules import check_form, check_keys_unique, check_root_keys, keys_named, parse_role

_ROOT_SUFFIX = ".root.json"
_MAX_ROOTS = 4096  # of a device's whole life; each costs two signature checks


def verify_evidence(files: Mapping[str, bytes], *, root: bytes, path: BundlePath, limits: Limits = DEFAULT_LIMITS) -> AgreedRelease:
    """What both roles agreed on for ``path`` when it was installed.

    Args:
        files: the evidence by file name: ``N.root.json``, ``targets.json``, ``<role>.json``, bins likewise.
        root: bytes of the root that trust starts from, given to the device by a person.
        path: the bundle that the evidence is about.
        limits: bounds of every file.

    The steps:
        1. Each root follows the one before it: the next version, signed to the threshold of both.
        2. Targets is signed by the newest root's keys.
        3. Release, audit, and the bins that may list the path, are signed by the keys that their delegator names.
        4. The rules of agreement.

    Raises:
        TrustError: ``evidence_missing``, ``evidence_broken`` (the root chain), ``signature_threshold``, or the code of a rule.
        FormatError, LimitError: a file that is not what it should be.
    """
    newest = _walk_roots(files, root, limits=limits)  # 1
    targets = _load(files, "targets", delegator=newest, limits=limits)  # 2
    model = path.of_model
    roles: dict[str, LoadedRole] = {}
    for role, target in ((model.release_role, path.release_target), (model.audit_role, path.audit_target)):  # 3
        roles[role] = _load_role(files, role, target, targets, limits=limits)
    return check_agreement(path, root=newest, targets=targets, roles=roles, limits=limits)  # 4


def _walk_roots(files: Mapping[str, bytes], start: bytes, *, limits: Limits) -> Root:
    trusted = _root(start, where="root given at init", limits=limits)
    _check_signed(trusted.signed, Root.type, trusted, where="root given at init")
    later = sorted(
        int(name.removesuffix(_ROOT_SUFFIX))
        for name in files
        if name.endswith(_ROOT_SUFFIX) and name.removesuffix(_ROOT_SUFFIX).isdigit()
    )
    if len(later) > _MAX_ROOTS:
        raise TrustError("more roots than one device may follow", code="evidence_broken", where="root", actual=len(later))
    for version in (number for number in later if number > trusted.signed.version):
        name = f"{version}{_ROOT_SUFFIX}"
        following = _root(files[name], where=name, limits=limits)
        if following.signed.version != version or version != trusted.signed.version + 1:
            raise TrustError(
                "the chain of roots has a gap",
                code="evidence_broken",
                where=name,
                expected=f"version {trusted.signed.version + 1}",
                actual=following.signed.version,
            )
        _check_signed(trusted.signed, Root.type, following, where=name)
        _check_signed(following.signed, Root.type, following, where=name)
        trusted = following
    return trusted.signed


def _load_role(files: Mapping[str, bytes], role: str, target: str, targets: Targets, *, limits: Limits) -> LoadedRole:
    signed = _load(files, role, delegator=targets, limits=limits)
    name = bin_of(signed, target)  # which names it may have, and whose keys, are rules of agreement
    return LoadedRole(signed) if name is None else LoadedRole(signed, {name: _load(files, name, delegator=signed, limits=limits)})


def _load(files: Mapping[str, bytes], role: str, *, delegator: Root | Targets, limits: Limits) -> Targets:
    name = f"{role}.json"
    if name not in files:
        raise TrustError("the evidence lacks a role", code="evidence_missing", where=name)
    metadata = parse_role(files[name], where=name, limits=limits)
    signed = metadata.signed
    if not isinstance(signed, Targets):
        raise FormatError("not a targets role", code="metadata_syntax", where=name, actual=signed.type)
    check_form(signed, where=name)
    _check_signed(delegator, role, metadata, where=name)
    return signed


def _root(data: bytes, *, where: str, limits: Limits) -> Metadata[Root]:
    metadata = parse_role(data, where=where, limits=limits)
    if not isinstance(metadata.signed, Root):
        raise FormatError("not a root", code="metadata_syntax", where=where, actual=metadata.signed.type)
    check_form(metadata.signed, where=where)
    check_root_keys(metadata.signed)
    return metadata


def _check_signed(delegator: Root | Targets, role: str, metadata: Metadata[Any], *, where: str) -> None:
    try:
        named = delegator.get_delegated_role(role)
        check_keys_unique([(role, keys_named(delegator, named, where=where))])
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as e:
        raise TrustError("not signed to the threshold of its role", code="signature_threshold", where=where) from e
    except ValueError as e:
        raise TrustError("nobody delegates to this role", code="role_unknown", where=where) from e
