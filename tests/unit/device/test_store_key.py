"""The key of the stored blobs: made once, kept where ``status`` says, never replaced behind the owner's back."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from device_client.bundle import Digest
from device_client.errors import IntegrityError, StateError
from device_client.install import at_rest_key
from device_client.install.at_rest_key import NO_PROTECTION, KeyFile, StoreKey, SystemdCreds, create_store_key
from device_client.install.folder import DeviceFolder
from device_client.install.store import open_store

DATA, DIGEST = b"weights", Digest.of(b"weights")

FAKE = """#!/usr/bin/env python3
import sys
given = sys.stdin.buffer.read()
assert sys.argv[2] == "--name=sealift-store-key" and sys.argv[-2:] == ["-", "-"]
if sys.argv[1] == "encrypt":
    assert sys.argv[3] == "--with-key=tpm2"
    sys.stdout.buffer.write(b"sealed:" + given[::-1])
elif not given.startswith(b"sealed:"):
    sys.exit("this is not for this TPM")
else:
    sys.stdout.buffer.write(given[7:][::-1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> DeviceFolder:
    tmp_path.chmod(0o700)
    return DeviceFolder(tmp_path)


@pytest.fixture
def tpm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> SystemdCreds:
    """A systemd-creds and a TPM that exist."""
    place = tmp_path_factory.mktemp("tpm")
    program = place / "systemd-creds"
    program.write_text(FAKE)
    program.chmod(0o755)
    (place / "class" / "tpm0").mkdir(parents=True)
    found = SystemdCreds("tpm2", program)
    monkeypatch.setattr(at_rest_key, "_TPM", place / "class")
    monkeypatch.setattr(at_rest_key, "_SYSTEMD_CREDS", program)
    monkeypatch.setattr(at_rest_key, "SystemdCreds", lambda _: found)
    monkeypatch.setattr(at_rest_key, "_PROVIDERS", (found, KeyFile()))
    return found


@pytest.fixture
def no_tpm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(at_rest_key, "_TPM", tmp_path / "no such folder")


def code_of(key: StoreKey) -> str:
    with pytest.raises(StateError) as caught:
        key.load()
    return caught.value.code


@pytest.mark.usefixtures("no_tpm")
def test_without_a_tpm_the_key_is_a_file_that_says_it_protects_nothing(folder: DeviceFolder) -> None:
    create_store_key(folder.path)
    assert stat.S_IMODE((folder.path / "store.key").stat().st_mode) == 0o600
    assert NO_PROTECTION in open_store(folder).protection
    assert len(StoreKey(folder.path).load()) == 32
    assert StoreKey(folder.path).load() == StoreKey(folder.path).load()


def test_with_a_tpm_the_key_is_sealed_to_it_and_not_on_the_card(folder: DeviceFolder, tpm: SystemdCreds) -> None:
    assert create_store_key(folder.path) is tpm
    store = open_store(folder)
    store.put(DIGEST, DATA)
    assert "TPM2" in store.protection
    assert open_store(folder).read(DIGEST) == DATA
    key = StoreKey(folder.path).load()
    assert not (folder.path / "store.key").exists()
    assert all(key not in path.read_bytes() and key.hex().encode() not in path.read_bytes() for path in files(folder.path))


def test_a_tpm_that_does_not_work_is_not_depended_on(folder: DeviceFolder, tpm: SystemdCreds) -> None:
    tpm.program.write_text(FAKE.replace("given[7:][::-1]", "b'x' * 32"))
    assert create_store_key(folder.path).name == "file"
    assert NO_PROTECTION in open_store(folder).protection


def test_a_card_in_another_machine_gives_no_key_and_no_new_one_is_made_silently(folder: DeviceFolder, tpm: SystemdCreds) -> None:
    create_store_key(folder.path)
    open_store(folder).put(DIGEST, DATA)
    before = (folder.path / "store.cred").read_bytes()
    tpm.program.write_text("#!/bin/sh\necho 'another TPM' >&2\nexit 1\n")
    for action in (lambda: open_store(folder).read(DIGEST), lambda: open_store(folder).put(DIGEST, DATA)):
        with pytest.raises(StateError) as caught:
            action()
        assert caught.value.code == "store_key_provider"
        assert "another TPM" in str(caught.value)
    assert (folder.path / "store.cred").read_bytes() == before


def test_a_key_that_the_service_manager_hands_over_is_taken_and_checked(
    folder: DeviceFolder, tpm: SystemdCreds, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    create_store_key(folder.path)
    key = StoreKey(folder.path).load()
    tpm.program.unlink()
    handed = tmp_path_factory.mktemp("credentials")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    (handed / "sealift-store-key").write_bytes(key)
    assert StoreKey(folder.path).load() == key
    (handed / "sealift-store-key").write_bytes(b"y" * 32)
    assert code_of(StoreKey(folder.path)) == "store_key_damaged"


@pytest.mark.parametrize("data", [b"", b"short", b"x" * 31, b"x" * 32, b"x" * 33])
@pytest.mark.usefixtures("no_tpm")
def test_another_key_than_was_made_is_refused(folder: DeviceFolder, data: bytes) -> None:
    create_store_key(folder.path)
    (folder.path / "store.key").write_bytes(data)
    assert code_of(StoreKey(folder.path)) == "store_key_damaged"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
@pytest.mark.usefixtures("no_tpm")
def test_a_key_file_that_others_may_read_counts_as_read(folder: DeviceFolder, mode: int) -> None:
    create_store_key(folder.path)
    (folder.path / "store.key").chmod(mode)
    assert code_of(StoreKey(folder.path)) == "store_key_exposed"


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        b"not json",
        b'{"schema": 2, "provider": "file", "key_id": "00"}',
        b'{"schema": 1, "provider": "cloud", "key_id": "00"}',
        b'{"schema": 1, "provider": "file", "key_id": "zz"}',
        b'{"schema": 1, "provider": "file", "key_id": "00", "extra": 1}',
        b'{"schema": 1, "provider": "file", "key_id": "' + b"0" * 5000 + b'"}',
    ],
)
@pytest.mark.usefixtures("no_tpm")
def test_a_damaged_record_is_an_error_and_not_a_new_key(folder: DeviceFolder, record: bytes) -> None:
    create_store_key(folder.path)
    key = (folder.path / "store.key").read_bytes()
    (folder.path / "store-key.json").write_bytes(record)
    assert code_of(StoreKey(folder.path)) == "store_key_damaged"
    with pytest.raises(StateError):
        StoreKey(folder.path).load_or_create()
    assert (folder.path / "store.key").read_bytes() == key
    assert StoreKey(folder.path).protection.startswith("unknown")


@pytest.mark.parametrize("lost", ["store.key", "store-key.json"])
@pytest.mark.usefixtures("no_tpm")
def test_a_lost_key_is_replaced_when_something_is_written_and_old_blobs_give_way(folder: DeviceFolder, lost: str) -> None:
    store = open_store(folder)
    assert store.protection == "nothing is stored yet"
    store.put(DIGEST, DATA)
    (folder.path / lost).unlink()
    with pytest.raises(StateError) as caught:
        open_store(folder).read(DIGEST)
    assert caught.value.code == "store_key_missing"
    assert not open_store(folder).is_intact(DIGEST), "it is downloaded again"
    fresh = open_store(folder)
    fresh.put(Digest.of(b"other"), b"other")
    with pytest.raises(IntegrityError) as refused:
        fresh.read(DIGEST)
    assert refused.value.code == "blob_key"
    fresh.put(DIGEST, DATA)
    assert open_store(folder).read(DIGEST) == DATA


@pytest.mark.usefixtures("no_tpm")
def test_the_key_is_asked_for_once(folder: DeviceFolder) -> None:
    create_store_key(folder.path)
    store = open_store(folder)
    store.put(DIGEST, DATA)
    (folder.path / "store.key").unlink()
    assert store.read(DIGEST) == DATA


@pytest.mark.usefixtures("no_tpm")
def test_the_record_holds_no_key(folder: DeviceFolder) -> None:
    create_store_key(folder.path)
    record = json.loads((folder.path / "store-key.json").read_text())
    assert set(record) == {"schema", "provider", "key_id"}
    assert len(record["key_id"]) == 16
    assert record["key_id"] not in StoreKey(folder.path).load().hex()


@pytest.mark.skipif(not Path("/usr/bin/systemd-creds").exists() or os.geteuid() != 0, reason="needs systemd-creds and root")
def test_the_real_tool_keeps_a_key_when_asked_for_by_name(folder: DeviceFolder) -> None:
    try:
        create_store_key(folder.path, provider=SystemdCreds("host"))
    except StateError as error:
        pytest.skip(f"the tool does not work here: {error}")
    assert len(StoreKey(folder.path).load()) == 32
    assert NO_PROTECTION in StoreKey(folder.path).protection


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
