"""Sends a bundle's blobs and its signed roles to a repository.

Blobs first, metadata last, so that no published entry ever names bytes that are not there. The producer runs the
consumer's checks on its own output before anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Targets

from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.verified import VerifiedBundle
from device_client.errors import TrustError, UsageError
from device_client.trust.refs import BlobRef
from device_client.trust.rules import parse_role, verify_delegated
from packager.staging import Staging


@dataclass(frozen=True)
class PublishPlan:
    """What `publish` would do: ``blobs`` still to send, ``roles`` with the version each would become."""

    bundles: tuple[tuple[Path, VerifiedBundle], ...]
    blobs: tuple[tuple[Path, BlobRef], ...]
    roles: tuple[tuple[str, int], ...]


def plan_publish(
    bundles: Sequence[tuple[Path, VerifiedBundle]], *, staging: Staging, roles: Sequence[str], now: datetime
) -> PublishPlan:
    """Decides what to send, having verified every draft as a device would.

    Args:
        bundles: folders with what `verify_bundle` made of them.
        staging: the repository.
        roles: roles to publish; empty means both roles of each bundle's line that have a draft.
        now: current time.

    Raises:
        UsageError: nothing is prepared.
        TrustError: a draft below its threshold, or one that breaks a rule.
    """
    wanted = list(roles) or sorted({role for _, bundle in bundles for role in _roles_of(bundle)})
    drafts = {role: data for role in wanted if (data := _draft(staging, role, asked=role in roles)) is not None}
    missing = [role for role in roles if role not in drafts]
    if missing or not drafts:
        raise UsageError(
            "nothing is prepared for this role",
            code="draft_missing",
            where=", ".join(missing or wanted),
            hint="run `sealift sign` first",
        )
    targets = staging.role_bytes("targets")
    if targets is None:
        raise UsageError(
            "no repository here", code="repository_missing", where=staging.name, hint="hold the ceremony first: `sealift keys init`"
        )
    top = parse_role(targets, where="targets").signed
    if not isinstance(top, Targets):
        raise TrustError("not a targets role", code="metadata_syntax", where="targets")
    versions = tuple((role, verify_delegated(top, role, data, now=now).signed.version) for role, data in drafts.items())
    blobs = {ref: path for path, bundle in bundles for ref in _blobs_of(bundle)}
    return PublishPlan(tuple(bundles), tuple((path, ref) for ref, path in blobs.items() if not staging.has_blob(ref)), versions)


def publish_plan(plan: PublishPlan, *, staging: Staging) -> None:
    """Carries out a plan. Interrupted, it leaves at most blobs that nothing names; run it again."""
    for path, ref in plan.blobs:
        with LayoutDirectory(path).open_blob(ref.digest) as source:
            staging.put_blob(ref, source)
    for role, _ in plan.roles:
        staging.publish(role)


def _draft(staging: Staging, role: str, *, asked: bool) -> bytes | None:
    """The draft of a role; a server shows it only to a token of that role, which counts as none unless it was asked for."""
    try:
        return staging.draft(role)
    except UsageError:
        if asked:
            raise
        return None


def _roles_of(bundle: VerifiedBundle) -> tuple[str, str]:
    model = bundle.path.of_model
    return model.release_role, model.audit_role


def _blobs_of(bundle: VerifiedBundle) -> list[BlobRef]:
    manifest = bundle.manifest
    return [
        BlobRef(bundle.digest, len(bundle.manifest_bytes)),
        *(BlobRef(item.digest, item.size) for item in (manifest.config, *manifest.layers)),
    ]
