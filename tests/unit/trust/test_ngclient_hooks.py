"""Pins the private parts of python-tuf and securesystemslib that Sealift overrides or reads.

Red here after an upgrade means: read `device_client/trust/client.py` again before anything is shipped.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import tuf
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.ngclient import Updater

from device_client.trust.client import _RecordingUpdater
from tests.simulator import NOW, RELEASE, RepositorySimulator


def test_the_pinned_version_is_the_one_installed() -> None:
    assert tuf.__version__ == "7.0.1"


def test_every_overridden_method_exists_upstream_with_the_same_parameters() -> None:
    for name in ("_download_metadata", "_load_local_metadata", "_persist_metadata", "_persist_root"):
        ours, theirs = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (_RecordingUpdater, Updater))
        assert ours == theirs, name


def test_the_recorder_sees_every_role_and_the_clock_is_ours(tmp_path: Path) -> None:
    sim = RepositorySimulator()
    sim.release("1.0.0", counter=1)
    trusted = sim.refresh(tmp_path, now=NOW)
    trusted.agree(sim.path("1.0.0"))
    updater = trusted._updater
    assert updater._trusted_set.reference_time == NOW
    assert set(updater.verified_bytes) >= {"timestamp", "snapshot", "targets", RELEASE}
    assert trusted.root_bytes == sim.bootstrap


def test_keys_still_give_their_decoded_value() -> None:
    assert isinstance(CryptoSigner.generate_ed25519().public_key, SSlibKey)
    assert hasattr(SSlibKey, "_crypto_key")
