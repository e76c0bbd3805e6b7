"""Which root a refresh starts from."""

from __future__ import annotations

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from device_client.errors import SealiftError
from device_client.trust.bootstrap import choose_bootstrap

ONE, TWO = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()


def root(version: int, signer: CryptoSigner = ONE, *, note: str = "") -> bytes:
    metadata = Metadata(Root(version=version, unrecognized_fields={"note": note}))
    metadata.signed.expires = metadata.signed.expires.replace(year=2030, month=1, day=1, hour=0, minute=0, second=0)
    metadata.sign(signer)
    return metadata.to_bytes()


def test_the_higher_of_given_and_remembered_root_is_the_start() -> None:
    assert choose_bootstrap(root(1), None) == root(1)
    assert choose_bootstrap(root(1), root(3)) == root(3)
    assert choose_bootstrap(root(4), root(3)) == root(4)  # a newer client brought a newer root


def test_two_roots_of_one_version_that_say_different_things_are_a_fork() -> None:
    with pytest.raises(SealiftError) as refusal:
        choose_bootstrap(root(3), root(3, note="other"))
    assert refusal.value.code == "root_fork"


def test_other_signatures_or_spaces_on_the_same_root_are_no_fork() -> None:
    assert choose_bootstrap(root(3), root(3, TWO)) == root(3)
    assert choose_bootstrap(root(3), root(3) + b"\n") == root(3)


def test_something_else_than_a_root_is_refused() -> None:
    with pytest.raises(SealiftError):
        choose_bootstrap(root(3), b"{}")
