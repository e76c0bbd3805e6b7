"""Pins the private parts of python-tuf and securesystemslib that Sealift overrides or reads.

Red here after an upgrade means: read `device_client/trust/client.py` again before anything is shipped.
"""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import tuf
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.ngclient import Updater
from tuf.ngclient._internal import trusted_metadata_set

from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator


def test_the_pinned_version_is_the_one_installed() -> None:
    assert tuf.__version__ == "7.0.1"


def test_the_steps_that_are_called_one_by_one_are_the_stock_refresh() -> None:
    steps = [line.strip() for line in inspect.getsource(Updater.refresh).splitlines() if line.strip().startswith("self.")]
    assert steps == [
        "self._load_root()",
        "self._load_timestamp()",
        "self._load_snapshot()",
        "self._load_targets(Targets.type, Root.type)",
    ]


def test_the_functions_that_are_wrapped_take_what_ours_take() -> None:
    assert list(inspect.signature(trusted_metadata_set._load_from_metadata).parameters) == [
        "role",
        "data",
        "delegator",
        "role_name",
    ]
    added = inspect.signature(trusted_metadata_set.TrustedMetadataSet._add).parameters
    assert list(added) == ["self", "role", "signed", "delegator"]


def test_the_reader_that_ours_stands_in_for_is_the_one_that_was_read() -> None:
    """``StrictUpdater._load_strictly`` takes its place: whatever it begins to check, ours must check."""
    source = inspect.getsource(trusted_metadata_set._load_from_metadata)
    assert hashlib.sha256(source.encode()).hexdigest() == "85f4fa06fbbb444a801499d0ea9291610f68ab3da489108e8b6fe9168aba4059"


def test_every_role_is_read_strictly_and_noted_and_the_clock_is_ours(tmp_path: Path) -> None:
    sim = RepositorySimulator()
    sim.release("1.0.0", counter=1)
    trusted = sim.refresh(tmp_path, now=NOW)
    trusted.agree(sim.path("1.0.0"))
    updater = trusted._updater
    assert updater._trusted_set.reference_time == NOW
    assert set(updater.accepted) == {"timestamp", "snapshot", "targets", RELEASE, AUDIT}
    for role, accepted in updater.accepted.items():
        assert (accepted.data, accepted.signed) == (sim.role_bytes(role), updater._trusted_set[role])
    assert trusted.root_bytes == sim.bootstrap


def test_keys_still_give_their_decoded_value() -> None:
    assert isinstance(CryptoSigner.generate_ed25519().public_key, SSlibKey)
    assert hasattr(SSlibKey, "_crypto_key")
