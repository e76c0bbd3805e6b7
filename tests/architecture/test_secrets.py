"""Nothing secret is in the repository, and ``keys/`` holds public material only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.architecture.project import ROOT, all_files, text_files

PRIVATE_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=:,\s-]{40,}")
PUBLIC_SUFFIXES = {".md", ".toml", ".json", ".pub"}
# Paths of the machine on which something was written: they mean nothing elsewhere.
MACHINE_PATH = re.compile(r"(?<![\w.~$}>-])/(?:work|root|tmp/v\d)/")


def test_no_file_holds_a_private_key() -> None:
    found = [path.relative_to(ROOT) for path, text in text_files() if PRIVATE_BLOCK.search(text)]
    assert not found, found


def test_no_file_is_a_key_by_name() -> None:
    found = [path for path in all_files() if path.suffix in {".key", ".p12", ".pfx", ".token", ".db"}]
    assert not found, found


def test_the_keys_folder_holds_public_material_only() -> None:
    files = [path for path in all_files() if path.is_relative_to(ROOT / "keys")]
    assert files
    for path in files:
        assert path.suffix in PUBLIC_SUFFIXES, f"{path.relative_to(ROOT)}: not a kind of public material"
        assert b"PRIVATE KEY" not in path.read_bytes(), path
        if path.suffix == ".json":
            assert not _names(json.loads(path.read_text())) & {"private", "d", "secret", "passphrase", "token"}, path


def test_the_keys_folder_is_not_importable() -> None:
    assert not list((ROOT / "keys").rglob("*.py"))


def _names(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for inner in value.values() for name in _names(inner)}
    if isinstance(value, list):
        return {name for inner in value for name in _names(inner)}
    return set()


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY"])
def test_the_search_for_private_keys_finds_one(kind: str) -> None:
    assert PRIVATE_BLOCK.search(f"-----BEGIN {kind}-----\n{'MC4C' * 16}\n")


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    others = [(path, text) for path, text in text_files() if path != Path(__file__)]
    found = [f"{path.relative_to(ROOT)}: {match.group()}" for path, text in others for match in MACHINE_PATH.finditer(text)]
    assert not found, found
