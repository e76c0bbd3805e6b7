"""Where trust starts at a refresh: the higher of the root given to the device and the newest one verified here.

The metadata cache is disposable, and keys that were rotated out may be stolen later. Starting from the given root alone
would let them sign another chain whenever the cache is lost (R05). Pure.
"""

from __future__ import annotations

from tuf.api.metadata import Metadata, Root

from device_client.bundle.digest import Digest
from device_client.errors import FormatError, TrustError
from device_client.trust.rules import parse_role


def choose_bootstrap(given: bytes, remembered: bytes | None) -> bytes:
    """The root bytes to start from.

    Args:
        given: the root that came with the device, or with a newer client of it.
        remembered: the newest root that was verified here, if any.

    Raises:
        TrustError: ``root_fork``, two roots of one version that say different things.
        FormatError: one of them is no root.
    """
    if remembered is None or remembered == given:
        return given
    here, before = _root(given, where="given root"), _root(remembered, where="remembered root")
    if here.signed.version != before.signed.version:
        return given if here.signed.version > before.signed.version else remembered
    # What is signed, not the file: anyone on the way can add a space or a signature.
    if here.signed_bytes != before.signed_bytes:
        raise TrustError(
            "two different roots carry one version",
            code="root_fork",
            where=f"root version {here.signed.version}",
            expected=Digest.of(given),
            actual=Digest.of(remembered),
            hint="the holders of the root keys signed twice; do not go on before they have explained it",
        )
    return given


def _root(data: bytes, *, where: str) -> Metadata[Root]:
    metadata = parse_role(data, where=where)
    if not isinstance(metadata.signed, Root):
        raise FormatError("not a root", code="metadata_syntax", where=where, actual=metadata.signed.type)
    return metadata
