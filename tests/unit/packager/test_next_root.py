"""Signing a root that follows another: the holders of the keys before and those of its own must sign (TUF 5.3.4)."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root

from device_client.errors import TrustError
from device_client.trust.rules import parse_role
from packager.repository import to_bytes
from packager.sign import Draft, open_draft, store_signed
from tests.unit.packager.people import People


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "repo").hold_ceremony()


def _prepare(people: People, keys: list[SSlibKey], *, threshold: int) -> Draft:
    """The next root with ``keys`` in the place of the two before, of which both must sign."""
    data = people.staging.role_bytes("root")
    assert data is not None
    root: Root = copy.deepcopy(parse_role(data, where="root").signed)
    for keyid in list(root.roles["root"].keyids):
        root.revoke_key(keyid, "root")
    for key in keys:
        root.add_key(key, "root")
    root.roles["root"].threshold = threshold
    root.version = 2
    people.staging.put_draft("root", to_bytes(Metadata(root)), replace=True)
    draft = open_draft("root", staging=people.staging)
    assert draft is not None
    return draft


def _sign(people: People, draft: Draft, *signers: CryptoSigner) -> tuple[int, int, int]:
    """Signs; returns how many signed, of how many, and how many are still needed."""
    state = store_signed(draft, signers=signers, staging=people.staging, replace=False, now=people.now)
    return len(state.signed), state.threshold, state.needed


def test_keys_before_and_new_ones_are_both_needed(people: People) -> None:
    new = [CryptoSigner.generate_ed25519(), CryptoSigner.generate_mldsa()]
    draft = _prepare(people, [signer.public_key for signer in new], threshold=2)
    assert _sign(people, draft, *people.signers["root"]) == (2, 4, 2)
    assert draft.signatures.missing == tuple(signer.public_key.keyid for signer in new)
    assert _sign(people, draft, new[1]) == (3, 4, 1)
    assert _sign(people, draft, new[0]) == (4, 4, 0)


def test_a_key_that_stays_counts_on_both_sides(people: People) -> None:
    stays, leaves = people.signers["root"]
    comes = CryptoSigner.generate_ed25519()
    draft = _prepare(people, [stays.public_key, comes.public_key], threshold=2)
    assert draft.signatures.needed == 3
    assert _sign(people, draft, stays) == (1, 3, 2)
    assert set(draft.signatures.missing) == {leaves.public_key.keyid, comes.public_key.keyid}
    assert _sign(people, draft, leaves, comes) == (3, 3, 0)


def test_a_renewed_root_with_the_same_keys_needs_no_more_than_before(people: People) -> None:
    draft = _prepare(people, [signer.public_key for signer in people.signers["root"]], threshold=2)
    assert draft.signatures.needed == 2
    assert _sign(people, draft, *people.signers["root"]) == (2, 2, 0)


def test_a_next_root_with_one_key_under_two_ids_is_not_signed(people: People) -> None:
    key = CryptoSigner.generate_ed25519().public_key
    again = SSlibKey("ab" * 32, key.keytype, key.scheme, key.keyval)
    with pytest.raises(TrustError) as refused:
        _prepare(people, [key, again], threshold=2)
    assert refused.value.code == "roles_share_keys"
