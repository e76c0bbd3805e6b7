"""What is published, verified before anyone signs on top of it.

A new version of a role carries over what the published one lists, and a signer is shown only the difference. A shared
folder or a server that could make up "the published version" would have honest people sign entries that they never
saw. So root must sign itself, targets must be signed by root, and a delegated role by targets, each to its threshold.

Where trust starts: ``root_digest`` is shown to the signer, who compares it with what the ceremony read out loud, or
gives it with ``--root-sha256``. A folder with a root of its own is consistent with itself; only that digest tells.
"""

from __future__ import annotations

from typing import Any

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from device_client.bundle.digest import Digest
from device_client.errors import TrustError, UsageError
from device_client.trust.rules import check_contents, check_lifetime, check_root_keys, delegation_for, parse_role
from packager.repository import role_keys
from packager.staging import Staging


class Published:
    """Root and targets of a repository, read once; made anew for every draft.

    Raises:
        UsageError: ``repository_missing``.
        TrustError: ``signature_threshold``, ``metadata_syntax``.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        data = staging.role_bytes("root")
        if data is None:
            raise UsageError(
                "no repository here",
                code="repository_missing",
                where=staging.name,
                hint="hold the ceremony first: `sealift keys init`",
            )
        self.root_digest = Digest.of(data)
        self.root: Metadata[Root] = _of_type(parse_role(data, where="root"), Root, "root")
        _check_signed("root", self.root, by=self.root.signed)
        targets = staging.role_bytes("targets")
        self.targets: Metadata[Targets] | None = None
        if targets is not None:
            self.targets = _of_type(parse_role(targets, where="targets"), Targets, "targets")
            _check_signed("targets", self.targets, by=self.root.signed)

    def role(self, name: str) -> Metadata[Any] | None:
        """The newest published version of an offline role, verified; None before the first. Its expiry does not matter here."""
        if name == "root":
            return self.root
        return self.targets if name == "targets" else self.delegated(name)

    def delegated(self, name: str) -> Metadata[Targets] | None:
        """The newest published version of a delegated role, verified; None before the first.

        Raises:
            TrustError: ``role_unknown``, ``signature_threshold``, ``path_outside_role``.
        """
        data = self._staging.role_bytes(name)
        if data is None:
            return None
        if self.targets is None:
            raise TrustError("no targets to verify the role with", code="role_unknown", where=name)
        metadata: Metadata[Targets] = _of_type(parse_role(data, where=name), Targets, name)
        _check_signed(name, metadata, by=self.targets.signed)
        check_contents(metadata.signed, delegation_for(self.targets.signed, name))
        return metadata

    def keys(self, role: str) -> tuple[list[Key], int]:
        """Keys and threshold of an offline role."""
        return role_keys(role, root=self.root, targets=self.targets)

    def check_draft(self, role: str, metadata: Metadata[Any], current: Metadata[Any] | None) -> None:
        """What is prepared is a document of that role, and its next version: anything else is not to be signed.

        A version far ahead would lock devices to it for ever; a document of another type would be signed unread.

        Raises:
            TrustError: ``metadata_syntax``, ``draft_version``, ``targets_lists_targets``, and what ``check_lifetime``,
                ``check_root_keys`` and ``check_contents`` raise.
        """
        signed = _of_type(metadata, Root if role == "root" else Targets, role).signed
        expected = 1 if current is None else current.signed.version + 1
        if signed.version != expected:
            raise TrustError(
                "not the next version of the role", code="draft_version", where=role, expected=expected, actual=signed.version
            )
        check_lifetime(signed, role=role)
        if isinstance(signed, Root):
            check_root_keys(signed)
        if role == "targets" and signed.targets:
            raise TrustError("top-level targets lists a target", code="targets_lists_targets", where=role)
        if role not in {"root", "targets"} and self.targets is not None:
            check_contents(signed, delegation_for(self.targets.signed, role))


def _of_type(metadata: Metadata[Any], kind: type[Root | Targets], role: str) -> Metadata[Any]:
    if not isinstance(metadata.signed, kind):
        raise TrustError(
            "a document of another type than the role's",
            code="metadata_syntax",
            where=role,
            expected=kind.type,
            actual=metadata.signed.type,
        )
    return metadata


def _check_signed(role: str, metadata: Metadata[Any], *, by: Root | Targets) -> None:
    try:
        by.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as e:
        raise TrustError(
            "what is published is not signed by its role",
            code="signature_threshold",
            where=role,
            hint="do not sign: find out who changed the folder or the server",
        ) from e
    except (RepositoryError, ValueError) as e:
        raise TrustError("no such delegated role", code="role_unknown", where=role) from e
