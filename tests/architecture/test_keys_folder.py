"""The example in ``keys/`` is a roles file that the ceremony accepts, with the separation that the threat model promises."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_client.errors import UsageError
from packager.roles import load_roles
from tests.architecture.project import ROOT

EXAMPLE = ROOT / "keys/roles.toml"


def _write_public_key(path: Path) -> None:
    public = Ed25519PrivateKey.generate().public_key()
    path.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def _names(table: object) -> list[str]:
    if isinstance(table, dict):
        return [name for key, value in table.items() for name in (value if key == "keys" else _names(value))]
    return []


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example with a fresh public key for every name in it."""
    for name in _names(tomllib.loads(EXAMPLE.read_text())):
        _write_public_key(tmp_path / name)
    return Path(shutil.copy(EXAMPLE, tmp_path))


def test_the_example_roles_file_is_accepted(example: Path) -> None:
    roles = load_roles(example)
    assert (len(roles.root.keys), roles.root.threshold) == (3, 2)
    assert set(roles.delegated) == {"release-digits", "audit-digits"}
    assert all(role.threshold == 2 for role in roles.delegated.values())


def test_the_example_with_one_key_in_two_roles_is_refused(example: Path) -> None:
    shutil.copy(example.parent / "release-digits-a.pub", example.parent / "audit-digits-a.pub")
    with pytest.raises(UsageError) as caught:
        load_roles(example)
    assert caught.value.code == "roles_share_keys"
