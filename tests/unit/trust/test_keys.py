"""Key files and key objects: what is made, what is refused, and that a private key is never left open."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from device_client.bundle.digest import Digest
from device_client.trust.keys import (
    MAX_KEY_FILE_BYTES,
    fingerprint,
    key_from_json,
    key_to_json,
    load_public_key,
    load_signer,
    new_key_file,
    public_value,
)
from tests.unit.trust.edited import Place, code_of, edited, with_a_stranger, without_one_field

SIGNER = CryptoSigner.generate_ed25519()
PUBLIC = SIGNER.public_key
PEM = PUBLIC._crypto_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
DER = PUBLIC._crypto_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
JSON: dict[str, Any] = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": PUBLIC.keyval["public"]}}
SECRET = b"eight by"
NAMES = {"ed25519": "ed25519", "ecdsa-sha2-nistp256": "ecdsa-sha2-nistp256", "ml-dsa-65": "ml-dsa-65/1"}


class _UnknownKey(Key):
    """A key of a type that securesystemslib learned after this client was made."""

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> _UnknownKey:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def verify_signature(self, signature: object, data: bytes) -> None:
        raise NotImplementedError


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    new_key_file(tmp_path / "a.key", passphrase=SECRET)
    return tmp_path / "a.key"


@pytest.mark.parametrize("scheme", NAMES)
def test_a_key_of_each_scheme_is_made_with_both_halves(scheme: str, tmp_path: Path) -> None:
    public = new_key_file(tmp_path / "a.key", scheme=scheme, passphrase=SECRET)
    assert public.scheme == NAMES[scheme]
    assert load_public_key(tmp_path / "a.key.pub") == public
    assert load_signer(f"file:{tmp_path / 'a.key'}", passphrase=lambda _: SECRET).public_key == public
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a.key": 0o600, "a.key.pub": 0o644}


def test_the_scheme_is_ed25519_unless_another_is_named(tmp_path: Path) -> None:
    assert new_key_file(tmp_path / "a.key", passphrase=SECRET).scheme == "ed25519"
    assert code_of(lambda: new_key_file(tmp_path / "b.key", scheme="rsa", passphrase=SECRET)) == "key_scheme"
    assert not (tmp_path / "b.key").exists()


def test_a_passphrase_has_at_least_eight_bytes(tmp_path: Path) -> None:
    assert code_of(lambda: new_key_file(tmp_path / "a.key", passphrase=SECRET[:7])) == "passphrase_short"
    assert not list(tmp_path.iterdir())
    new_key_file(tmp_path / "a.key", passphrase=SECRET)


@pytest.mark.parametrize("existing", ["a.key", "a.key.pub"])
def test_neither_half_of_a_key_is_overwritten(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_bytes(b"precious")
    assert code_of(lambda: new_key_file(tmp_path / "a.key", passphrase=SECRET)) == "file_exists"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(existing, b"precious")]


def test_the_passphrase_is_asked_for_by_the_name_of_the_file(key_file: Path) -> None:
    asked: list[str] = []
    load_signer(f"file:{key_file}", passphrase=lambda name: asked.append(name) or SECRET)
    assert asked == ["a.key"]
    (key_file.parent / "dir:b.key").write_bytes(key_file.read_bytes())
    load_signer(f"file:{key_file.parent / 'dir:b.key'}", passphrase=lambda name: asked.append(name) or SECRET)
    assert asked == ["a.key", "dir:b.key"]


@pytest.mark.parametrize("uri", ["file:", "file", "", "pkcs11:object", ":a.key", "FILE:a.key"])
def test_a_key_uri_of_another_form_is_refused(uri: str) -> None:
    assert code_of(lambda: load_signer(uri, passphrase=lambda _: SECRET)) == "key_uri"


def test_a_private_key_that_does_not_open_is_refused(key_file: Path) -> None:
    assert code_of(lambda: load_signer(f"file:{key_file}", passphrase=lambda _: b"eight bx")) == "key_passphrase"
    key_file.write_bytes(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    assert code_of(lambda: load_signer(f"file:{key_file}", passphrase=lambda _: SECRET)) == "key_passphrase"


def test_a_passphrase_is_not_asked_for_when_the_key_is_open(tmp_path: Path) -> None:
    (tmp_path / "plain.key").write_bytes(SIGNER.private_bytes)
    asked: list[str] = []
    uri = f"file:{tmp_path / 'plain.key'}"
    assert code_of(lambda: load_signer(uri, passphrase=lambda name: asked.append(name) or SECRET)) == "key_unencrypted"
    assert not asked


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "key_missing"),
        (b"", "key_syntax"),
        (b"ssh-ed25519 AAAA", "key_syntax"),
        (SIGNER.private_bytes, "key_syntax"),
        (PEM.replace(b"PUBLIC KEY", b"PRIVATE KEY"), "key_syntax"),
        (PEM + b"\n" * (MAX_KEY_FILE_BYTES - len(PEM) + 1), "key_syntax"),
        (PEM + b"\n" * (MAX_KEY_FILE_BYTES - len(PEM)), None),
        (PEM, None),
    ],
    ids=["missing", "empty", "another format", "a private key", "a private key by name", "too long", "longest", "a key"],
)
def test_a_public_key_file_holds_a_public_key_and_little_else(content: bytes | None, code: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.pub"
    if content is not None:
        path.write_bytes(content)
    assert code_of(lambda: load_public_key(path)) == code


def test_a_private_key_given_as_a_public_one_is_told_apart_from_garbage(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_bytes(SIGNER.private_bytes)
    with pytest.raises(Exception, match="this is a private key"):
        load_public_key(tmp_path / "a.key")


def test_a_key_file_is_not_read_further_than_its_limit(tmp_path: Path) -> None:
    with (tmp_path / "huge.pub").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        assert code_of(lambda: load_public_key(tmp_path / "huge.pub")) == "key_syntax"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * MAX_KEY_FILE_BYTES
    assert code_of(lambda: load_public_key(tmp_path)) == "key_missing"


def test_the_value_of_a_key_is_its_decoded_form_and_names_it() -> None:
    assert public_value(PUBLIC) == DER
    assert fingerprint(PUBLIC) == Digest.of(DER)
    shouted = SSlibKey("f" * 64, "ed25519", "ed25519", {"public": PUBLIC.keyval["public"].upper()})
    assert public_value(shouted) == DER


def test_a_key_of_another_type_or_value_has_no_decoded_form() -> None:
    assert code_of(lambda: public_value(_UnknownKey("a" * 64, "new", "new", {"public": ""}))) == "key_type"
    assert code_of(lambda: public_value(_UnknownKey("a" * 64, "ed25519", "ed25519", JSON["keyval"]))) == "key_type"
    for public in ("zz", "00", ""):
        undecodable = SSlibKey("a" * 64, "ed25519", "ed25519", {"public": public})
        assert code_of(lambda key=undecodable: public_value(key)) == "key_type"


def test_a_key_is_written_without_its_id_and_read_under_its_fingerprint() -> None:
    assert key_to_json(PUBLIC) == JSON
    key = key_from_json(JSON, where="key")
    assert (key.keyid, key.keytype, key.scheme, dict(key.keyval)) == (Digest.of(DER).hex, "ed25519", "ed25519", JSON["keyval"])


def test_a_written_key_is_a_closed_schema() -> None:
    assert {code_of(lambda value=value: key_from_json(value, where="key")) for value in with_a_stranger(JSON)} == {"field_unknown"}
    assert {code_of(lambda value=value: key_from_json(value, where="key")) for value in without_one_field(JSON)} == {
        "field_missing"
    }


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("keytype",), "rsa-9", "key_type"),
        (("keyval",), "00", "field_type"),
        (("keyval", "public"), "00", "key_type"),
        (("keyval", "public"), "0" * 8192, "key_type"),
        (("keyval", "public"), "0" * 8193, "field_type"),
        (("keyval", "public"), 0, "field_type"),
    ],
)
def test_a_written_key_with_one_wrong_field_is_refused(place: Place, value: object, code: str) -> None:
    assert code_of(lambda: key_from_json(edited(JSON, place, value), where="key")) == code


def test_no_private_half_is_written_into_a_public_file(key_file: Path) -> None:
    assert b"PRIVATE" not in (key_file.parent / "a.key.pub").read_bytes()
    assert b"ENCRYPTED PRIVATE KEY" in key_file.read_bytes()
    assert "private" not in json.dumps(key_to_json(load_public_key(key_file.parent / "a.key.pub")))


def test_a_signer_signs_what_its_public_half_verifies(key_file: Path) -> None:
    signer = load_signer(f"file:{key_file}", passphrase=lambda _: SECRET)
    signature = signer.sign(b"data")
    load_public_key(Path(f"{key_file}.pub")).verify_signature(signature, b"data")
    assert dataclasses.is_dataclass(fingerprint(signer.public_key))
