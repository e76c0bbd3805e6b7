"""Which root is the start, and what is none."""

from __future__ import annotations

import pytest
from tuf.api.metadata import Metadata, Targets

from device_client.errors import FormatError, TrustError
from device_client.trust.bootstrap import choose_bootstrap
from tests.unit.trust.test_bootstrap import TWO, root

OTHER_ROLE = Metadata(Targets(version=9)).to_bytes()


def test_a_given_root_is_taken_unread_when_nothing_else_is_known() -> None:
    assert choose_bootstrap(b"unread", None) == b"unread"
    assert choose_bootstrap(b"unread", b"unread") == b"unread"


@pytest.mark.parametrize(("given", "remembered", "where"), [(OTHER_ROLE, root(3), "given"), (root(3), OTHER_ROLE, "remembered")])
def test_another_role_is_no_root_whichever_place_it_takes(given: bytes, remembered: bytes, where: str) -> None:
    with pytest.raises(FormatError) as refusal:
        choose_bootstrap(given, remembered)
    assert refusal.value.code == "metadata_syntax"
    assert str(refusal.value.where).startswith(where)


def test_of_one_version_the_given_file_is_taken() -> None:
    resigned = root(3, TWO)
    assert choose_bootstrap(resigned, root(3)) == resigned
    assert choose_bootstrap(root(2), root(2, note="")) == root(2)


def test_a_fork_is_an_error_of_trust() -> None:
    with pytest.raises(TrustError) as refusal:
        choose_bootstrap(root(3), root(3, note="other"))
    assert (refusal.value.code, refusal.value.where) == ("root_fork", "root version 3")
