"""Hash bins below a release or audit role: where a role lists thousands of versions, its entries are spread over bins.

A bin is the role in pieces, so it carries exactly the role's keys and threshold; anything else would let somebody sign for
the role who is not of it (R02). A role either lists entries itself or has bins. Pure rules on python-tuf's objects.
"""

from __future__ import annotations

from collections.abc import Sequence

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, SuccinctRoles, Targets

from device_client.errors import TrustError
from device_client.trust.keys import public_value

MAX_BIT_LENGTH = 16  # 65 536 bins: more than any snapshot within its cap can list


def bin_of(signed: Targets, target: str) -> str | None:
    """The name of the bin that may list ``target``, or None if the role has no bins."""
    bins = None if signed.delegations is None else signed.delegations.succinct_roles
    return None if bins is None else str(bins.get_role_for_target(target))


def check_bins(signed: Targets, delegation: DelegatedRole, *, keys: Sequence[Key]) -> None:
    """A delegated role delegates to nobody, or to bins of itself.

    Args:
        signed: the role.
        delegation: what top-level targets says about it.
        keys: the keys that ``delegation`` names.

    Raises:
        TrustError: ``delegation_nested`` for any other delegation, ``bins_keys`` for bins with other keys or another threshold,
            ``bins_and_targets`` for a role with both bins and entries.
    """
    if signed.delegations is None:
        return
    bins = signed.delegations.succinct_roles
    if bins is None or signed.delegations.roles is not None:
        raise TrustError("a delegated role delegates further", code="delegation_nested", where=delegation.name)
    if bins.name_prefix != delegation.name or bins.bit_length > MAX_BIT_LENGTH:
        raise TrustError(
            "bins of another name, or too many",
            code="delegation_nested",
            where=delegation.name,
            expected=f"prefix {delegation.name}, at most {MAX_BIT_LENGTH} bits",
            actual=f"prefix {ascii(bins.name_prefix)[:80]}, {bins.bit_length} bits",
        )
    if bins.threshold != delegation.threshold or _values(signed, bins) != {public_value(key) for key in keys}:
        raise TrustError(
            "bins are not signed by the role's own keys and threshold",
            code="bins_keys",
            where=delegation.name,
            expected=f"{delegation.threshold} of {len(keys)} keys of the role",
            actual=f"{bins.threshold} of {len(bins.keyids)}",
        )
    if signed.targets:
        raise TrustError("a role with bins lists entries itself", code="bins_and_targets", where=delegation.name)


def check_bin(signed: Targets, parent: Targets, name: str) -> None:
    """A bin lists only what hashes into it, and delegates to nobody. That its paths are the role's own is ``check_paths``.

    Raises:
        TrustError: ``delegation_nested`` or ``path_outside_role``.
    """
    if signed.delegations is not None:
        raise TrustError("a bin delegates further", code="delegation_nested", where=name)
    for path in signed.targets:
        if bin_of(parent, path) != name:
            raise TrustError("the bin lists a path of another bin", code="path_outside_role", where=name, actual=ascii(path)[:200])


def _values(signed: Targets, bins: SuccinctRoles) -> set[bytes]:
    """Decoded values of the keys that may sign the bins, each there once."""
    try:
        values = [public_value(signed.get_key(keyid)) for keyid in bins.keyids]
    except ValueError as e:
        raise TrustError("bins name a key that is not there", code="bins_keys", where=bins.name_prefix) from e
    if len(set(values)) != len(values):
        raise TrustError("bins count one key twice", code="bins_keys", where=bins.name_prefix)
    return set(values)
